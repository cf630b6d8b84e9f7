//! Every atom against every atom, or against every point of a periodic system.
//!
//! Points are visited in the order of the list, so rows need no sorting.

use super::points::Points;
use super::{NeighborList, Query, check_neighbors, index, scan};
use crate::error::Result;
use crate::structure::Structure;

/// Fills `list` for a structure without periodic directions, all but `reverse_edge`.
pub(super) fn search_molecule(
    structure: &Structure,
    cutoff: f64,
    points: &mut Points,
    row: &mut Vec<u32>,
    list: &mut NeighborList,
) -> Result<()> {
    points.set_coordinates(&structure.positions);
    let (x, y, z) = (&points.x[..], &points.y[..], &points.z[..]);
    let limit = cutoff * cutoff;
    for (i, &center) in structure.positions.iter().enumerate() {
        let mut n = 0;
        scan([&x[..i], &y[..i], &z[..i]], center, limit, index, row, &mut n, 0.0);
        let after = i + 1;
        let rest = [&x[after..], &y[after..], &z[after..]];
        scan(rest, center, limit, |k| index(after + k), row, &mut n, 0.0);
        check_neighbors(i, n, cutoff)?;
        list.senders.extend_from_slice(&row[..n]);
        list.close_row(i)?;
    }
    list.shifts.resize(list.senders.len(), [0; 3]);
    Ok(())
}

/// Fills `list` from the points of a periodic structure, all but `reverse_edge`.
pub(super) fn search_points(query: &Query<'_>, row: &mut Vec<u32>, list: &mut NeighborList) -> Result<()> {
    let points = query.points;
    let (x, y, z) = (&points.x[..], &points.y[..], &points.z[..]);
    for (i, &home) in points.homes.iter().enumerate() {
        let (home, after) = (home as usize, home as usize + 1);
        let center = [x[home], y[home], z[home]];
        let mut n = 0;
        let limit = points.maybe_inside;
        let farthest = scan([&x[..home], &y[..home], &z[..home]], center, limit, index, row, &mut n, 0.0);
        let rest = [&x[after..], &y[after..], &z[after..]];
        let farthest = scan(rest, center, limit, |k| index(after + k), row, &mut n, farthest);
        check_neighbors(i, n, query.cutoff)?;
        query.push_row(i, &row[..n], farthest, list)?;
    }
    Ok(())
}
