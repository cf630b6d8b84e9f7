//! Every atom against the points in the bins around it; linear in atoms.
//!
//! Bins divide fractional coordinates, so one code serves triclinic cells. Points are sorted by bin; the bins of a line
//! along the third direction follow each other, so each atom scans a few contiguous runs of coordinates.

use super::points::Points;
use super::{NeighborList, Query, check_neighbors, index, scan};
use crate::error::Result;
use crate::structure::Vec3;

/// Bins per cutoff along each direction: long runs along the third, where fine bins cost nothing.
const BINS_PER_CUTOFF: [u32; 3] = [1, 1, 3];

/// Bins are looked up in a table as long as it has no more than this many entries a point, by bisection beyond.
const MAX_BINS_PER_POINT: f64 = 16.0;

/// Most bins along one direction; an extent of 1e10 Å has larger ones.
const MAX_BINS: f64 = (1u32 << 31) as f64;

/// Points sorted by bin.
#[derive(Debug, Default)]
pub(super) struct Grid {
    x: Vec<f64>,
    y: Vec<f64>,
    z: Vec<f64>,
    /// Ids of the points, `[n_points]`.
    ids: Vec<u32>,
    /// Points of bin b are `bin_ptr[b]..bin_ptr[b + 1]`; empty for a sparse grid.
    bin_ptr: Vec<u32>,
    /// Bin of every point, unsorted; only while a dense grid is built.
    bins: Vec<u32>,
    /// Bin and id of every point, sorted; only for a sparse grid.
    keys: Vec<(u128, u32)>,
    low: Vec3,
    bins_per_unit: Vec3,
    n_bins: [u32; 3],
}

impl Grid {
    fn build(&mut self, points: &Points) {
        self.low = points.low;
        for (k, &bins_per_cutoff) in BINS_PER_CUTOFF.iter().enumerate() {
            let extent = points.high[k] - points.low[k];
            self.bins_per_unit[k] = f64::from(bins_per_cutoff) / points.reach[k];
            if extent * self.bins_per_unit[k] >= MAX_BINS {
                self.bins_per_unit[k] = (MAX_BINS - 1.0) / extent;
            }
            // A saturating cast: 0 for the NaN of an extent that overflows.
            self.n_bins[k] = truncate(extent * self.bins_per_unit[k]) + 1;
        }
        #[allow(clippy::cast_precision_loss)]
        let affordable = (MAX_BINS_PER_POINT * points.len() as f64 + 64.0).min(MAX_BINS);
        if self.n_bins.iter().map(|&n| f64::from(n)).product::<f64>() <= affordable {
            self.sort_dense(points);
        } else {
            self.sort_sparse(points);
        }
        for (sorted, unsorted) in [(&mut self.x, &points.x), (&mut self.y, &points.y), (&mut self.z, &points.z)] {
            sorted.clear();
            sorted.extend(self.ids.iter().map(|&id| unsorted[id as usize]));
        }
    }

    fn sort_dense(&mut self, points: &Points) {
        self.keys.clear();
        self.bins.clear();
        for id in 0..points.len() {
            let b = self.bin(points.fractional_of(id));
            self.bins.push(self.line(b[0], b[1]) + b[2]);
        }
        let n_bins = self.n_bins.iter().product::<u32>() as usize;
        self.bin_ptr.clear();
        self.bin_ptr.resize(n_bins + 1, 0);
        for &bin in &self.bins {
            self.bin_ptr[bin as usize] += 1;
        }
        // Ends of the bins, which become their beginnings as they are filled from the back.
        let mut end = 0;
        for ptr in &mut self.bin_ptr {
            end += *ptr;
            *ptr = end;
        }
        self.ids.resize(points.len(), 0);
        for (id, &bin) in self.bins.iter().enumerate().rev() {
            let slot = &mut self.bin_ptr[bin as usize];
            *slot -= 1;
            self.ids[*slot as usize] = index(id);
        }
    }

    fn sort_sparse(&mut self, points: &Points) {
        self.bin_ptr.clear();
        self.keys.clear();
        for id in 0..points.len() {
            self.keys.push((key(self.bin(points.fractional_of(id))), index(id)));
        }
        self.keys.sort_unstable();
        self.ids.clear();
        self.ids.extend(self.keys.iter().map(|&(_, id)| id));
    }

    fn bin(&self, fractional: Vec3) -> [u32; 3] {
        std::array::from_fn(|k| truncate((fractional[k] - self.low[k]) * self.bins_per_unit[k]).min(self.n_bins[k] - 1))
    }

    /// First bin of a line along the third direction.
    fn line(&self, b0: u32, b1: u32) -> u32 {
        (b0 * self.n_bins[1] + b1) * self.n_bins[2]
    }

    /// Sorted points in the bins from `first` to `last` of a line.
    fn run(&self, b0: u32, b1: u32, first: u32, last: u32) -> std::ops::Range<usize> {
        if self.bin_ptr.is_empty() {
            let start = self.keys.partition_point(|&(k, _)| k < key([b0, b1, first]));
            let end = self.keys.partition_point(|&(k, _)| k <= key([b0, b1, last]));
            return start..end;
        }
        let line = self.line(b0, b1);
        self.bin_ptr[(line + first) as usize] as usize..self.bin_ptr[(line + last) as usize + 1] as usize
    }
}

/// Fills `list` from the points of a structure, all but `reverse_edge`.
pub(super) fn search(query: &Query<'_>, grid: &mut Grid, row: &mut Vec<u32>, list: &mut NeighborList) -> Result<()> {
    let points = query.points;
    if points.len() == 0 {
        return Ok(());
    }
    grid.build(points);
    for (i, &home) in points.homes.iter().enumerate() {
        let h = home as usize;
        let center = [points.x[h], points.y[h], points.z[h]];
        let bin = grid.bin(points.fractional[i]);
        let first: [u32; 3] = std::array::from_fn(|k| bin[k].saturating_sub(BINS_PER_CUTOFF[k]));
        let last: [u32; 3] = std::array::from_fn(|k| (bin[k] + BINS_PER_CUTOFF[k]).min(grid.n_bins[k] - 1));
        let (mut n, mut farthest) = (0, 0.0);
        for b0 in first[0]..=last[0] {
            for b1 in first[1]..=last[1] {
                let run = grid.run(b0, b1, first[2], last[2]);
                let ids = &grid.ids[run.clone()];
                let coordinates = [&grid.x[run.clone()], &grid.y[run.clone()], &grid.z[run]];
                farthest = scan(coordinates, center, points.maybe_inside, |k| ids[k], row, &mut n, farthest);
            }
        }
        check_neighbors(i, n - 1, query.cutoff)?;
        let found = &mut row[..n];
        // Ids are in the order of atoms and shifts.
        found.sort_unstable();
        if let Ok(own) = found.binary_search(&home) {
            found.copy_within(own + 1.., own);
            n -= 1;
        }
        query.push_row(i, &row[..n], farthest, list)?;
    }
    Ok(())
}

fn key(bin: [u32; 3]) -> u128 {
    (u128::from(bin[0]) << 64) | (u128::from(bin[1]) << 32) | u128::from(bin[2])
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // saturates, as wanted
fn truncate(x: f64) -> u32 {
    x as u32
}
