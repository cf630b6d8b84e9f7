//! Parity plots.

use mlff::{Error, Result};
use plotters::prelude::*;

/// Points of one quantity, thinned out evenly so that memory and file stay small.
pub struct Points {
    points: Vec<(f64, f64)>,
    seen: usize,
    stride: usize,
}

/// Points kept at most.
const MAX_POINTS: usize = 20_000;

impl Default for Points {
    fn default() -> Self {
        Points { points: Vec::new(), seen: 0, stride: 1 }
    }
}

impl Points {
    /// Adds (label, prediction).
    pub fn add(&mut self, want: f64, got: f64) {
        if self.seen.is_multiple_of(self.stride) {
            if self.points.len() == MAX_POINTS {
                let mut keep = false;
                self.points.retain(|_| {
                    keep = !keep;
                    keep
                });
                self.stride *= 2;
            }
            if self.seen.is_multiple_of(self.stride) {
                self.points.push((want, got));
            }
        }
        self.seen += 1;
    }
}

/// One panel of a parity plot.
pub struct Panel<'a> {
    /// Quantity and unit.
    pub title: &'a str,
    /// What to show.
    pub points: &'a Points,
    /// A line about the errors.
    pub note: String,
}

/// Panels side by side as SVG.
///
/// # Errors
/// `Error::Usage` if they cannot be drawn.
pub fn parity(panels: &[Panel]) -> Result<String> {
    let mut svg = String::new();
    draw(&mut svg, panels).map_err(|e| Error::Usage(format!("the plot cannot be drawn: {e}")))?;
    Ok(svg)
}

fn draw(svg: &mut String, panels: &[Panel]) -> std::result::Result<(), String> {
    let root = SVGBackend::with_string(svg, (460 * panels.len() as u32, 460)).into_drawing_area();
    root.fill(&WHITE).map_err(|e| e.to_string())?;
    for (area, panel) in root.split_evenly((1, panels.len())).into_iter().zip(panels) {
        let values = panel.points.points.iter().flat_map(|&(a, b)| [a, b]);
        let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), x| (l.min(x), h.max(x)));
        let margin = (0.05 * (high - low)).max(1e-6 * high.abs().max(1.0));
        let range = low - margin..high + margin;
        let mut chart = ChartBuilder::on(&area)
            .caption(format!("{}: {}", panel.title, panel.note), ("sans-serif", 15))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(range.clone(), range.clone())
            .map_err(|e| e.to_string())?;
        chart
            .configure_mesh()
            .x_desc("label")
            .y_desc("prediction")
            .x_labels(5)
            .y_labels(5)
            .light_line_style(TRANSPARENT)
            .draw()
            .map_err(|e| e.to_string())?;
        chart
            .draw_series(LineSeries::new([(range.start, range.start), (range.end, range.end)], BLACK.mix(0.5)))
            .map_err(|e| e.to_string())?;
        chart
            .draw_series(panel.points.points.iter().map(|&p| Circle::new(p, 1, BLUE.mix(0.4).filled())))
            .map_err(|e| e.to_string())?;
    }
    root.present().map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_are_thinned_evenly() {
        let mut points = Points::default();
        for k in 0..100_000 {
            points.add(f64::from(k), 0.0);
        }
        assert!(points.points.len() <= MAX_POINTS && points.points.len() > MAX_POINTS / 3);
        let steps: Vec<f64> = points.points.windows(2).map(|w| w[1].0 - w[0].0).collect();
        assert!(steps.iter().all(|&s| s == steps[0]), "uneven");
    }
}
