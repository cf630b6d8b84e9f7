//! From measured speed-ups to decisions.

use super::choice::{Pattern, Size, THRESHOLD};

/// Decides which operations to fuse, by measurements of one device in one precision. What was not measured is fused, so
/// the default, which has no measurements, fuses everything.
#[derive(Debug, Clone, PartialEq)]
pub struct CostModel {
    threshold: f64,
    curves: Vec<Curve>,
}

/// Measured at one width.
#[derive(Debug, Clone, PartialEq)]
struct Curve {
    pattern: Pattern,
    width: usize,
    /// Logarithms of rows and of the speed-up, by rising rows.
    points: Vec<(f64, f64)>,
}

impl Default for CostModel {
    /// A cost model without measurements, which fuses everything.
    fn default() -> Self {
        CostModel { threshold: THRESHOLD, curves: Vec::new() }
    }
}

impl CostModel {
    /// A cost model from measured speed-ups (time of the unfused chain, divided by that of the fused operation) by
    /// pattern and size. An operation is fused if its speed-up is at least `threshold`. Speed-ups that are not positive
    /// and finite, and sizes of zero, are left out.
    pub fn new(threshold: f64, measured: impl IntoIterator<Item = (Pattern, Size, f64)>) -> Self {
        let says = |&(_, size, speedup): &(Pattern, Size, f64)| {
            size.rows > 0 && size.width > 0 && speedup > 0.0 && speedup.is_finite()
        };
        let mut measured: Vec<_> = measured.into_iter().filter(says).collect();
        measured.sort_by_key(|&(pattern, size, _)| (pattern, size.width, size.rows));
        let mut curves: Vec<Curve> = Vec::new();
        for (pattern, Size { rows, width }, speedup) in measured {
            let point = ((rows as f64).ln(), speedup.ln());
            match curves.last_mut().filter(|c| (c.pattern, c.width) == (pattern, width)) {
                Some(curve) => curve.points.push(point),
                None => curves.push(Curve { pattern, width, points: vec![point] }),
            }
        }
        CostModel { threshold, curves }
    }

    /// Speed-up of fusing at a size. Between measured sizes it is interpolated linearly in logarithms, first by rows,
    /// then by width; beyond them it is that of the nearest measured size. `None` if the pattern was not measured.
    pub fn speedup(&self, pattern: Pattern, size: Size) -> Option<f64> {
        let ln = |n: usize| (n.max(1) as f64).ln();
        let rows = ln(size.rows);
        let at_width = |curve: &Curve| Some((ln(curve.width), interpolate(&curve.points, rows)?));
        let by_width: Vec<(f64, f64)> =
            self.curves.iter().filter(|c| c.pattern == pattern).filter_map(at_width).collect();
        interpolate(&by_width, ln(size.width)).map(f64::exp)
    }

    /// Whether the speed-up reaches the threshold; `None` if the pattern was not measured.
    pub fn decision(&self, pattern: Pattern, size: Size) -> Option<bool> {
        self.speedup(pattern, size).map(|speedup| speedup >= self.threshold)
    }

    /// Whether to fuse: if the speed-up reaches the threshold, or the pattern was not measured.
    pub fn should_fuse(&self, pattern: Pattern, size: Size) -> bool {
        self.decision(pattern, size).unwrap_or(true)
    }
}

/// On the lines between points of rising `x`; beyond them the nearest point's.
fn interpolate(points: &[(f64, f64)], x: f64) -> Option<f64> {
    let (first, last) = (points.first()?, points.last()?);
    let k = points.partition_point(|p| p.0 <= x);
    match (k.checked_sub(1).and_then(|k| points.get(k)), points.get(k)) {
        (Some(low), Some(high)) => Some(low.1 + (high.1 - low.1) * (x - low.0) / (high.0 - low.0)),
        (None, _) => Some(first.1),
        (_, None) => Some(last.1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size(rows: usize, width: usize) -> Size {
        Size { rows, width }
    }

    #[track_caller]
    fn assert_speedup(model: &CostModel, rows: usize, width: usize, want: f64) {
        let got = model.speedup(Pattern::Mlp, size(rows, width)).unwrap();
        approx::assert_relative_eq!(got, want, max_relative = 1e-12);
    }

    #[test]
    fn one_point_holds_everywhere() {
        let model = CostModel::new(1.2, [(Pattern::Mlp, size(100, 64), 1.5)]);
        for (rows, width) in [(100, 64), (1, 1), (usize::MAX, 64), (0, 0)] {
            assert_speedup(&model, rows, width, 1.5);
        }
        assert!(model.should_fuse(Pattern::Mlp, size(7, 7)));
    }

    #[test]
    fn speedup_is_interpolated_in_logarithms_and_clamped() {
        let grid = [(10, 16, 1.0), (1000, 16, 4.0), (10, 64, 2.0), (1000, 64, 8.0)];
        let model = CostModel::new(1.2, grid.map(|(rows, width, s)| (Pattern::Mlp, size(rows, width), s)));
        for (rows, width, want) in [
            (10, 16, 1.0),
            (100, 16, 2.0),
            (1000, 64, 8.0),
            (100, 32, 8_f64.sqrt()),
            (1, 16, 1.0),
            (100_000, 16, 4.0),
            (100, 1, 2.0),
            (100, 1000, 4.0),
        ] {
            assert_speedup(&model, rows, width, want);
        }
    }

    #[test]
    fn points_in_any_order_and_without_a_full_grid_will_do() {
        let points = [(1000, 16, 4.0), (10, 64, 3.0), (10, 16, 1.0), (10, 64, 3.0)];
        let model = CostModel::new(1.2, points.map(|(rows, width, s)| (Pattern::Mlp, size(rows, width), s)));
        assert_speedup(&model, 100, 16, 2.0);
        assert_speedup(&model, 1000, 64, 3.0);
        assert_speedup(&model, 1000, 32, 12_f64.sqrt());
    }

    #[test]
    fn should_fuse_asks_the_threshold_and_fuses_what_was_not_measured() {
        let measured =
            |threshold| CostModel::new(threshold, [1.1, f64::NAN, -1.0].map(|s| (Pattern::Mlp, size(9, 9), s)));
        assert!(!measured(1.2).should_fuse(Pattern::Mlp, size(9, 9)));
        assert!(measured(1.0).should_fuse(Pattern::Mlp, size(9, 9)));
        assert!(measured(1.2).should_fuse(Pattern::Message, size(9, 9)));
        assert_eq!(measured(1.2).decision(Pattern::Message, size(9, 9)), None);
        assert!(CostModel::default().should_fuse(Pattern::Mlp, size(9, 9)));
    }
}
