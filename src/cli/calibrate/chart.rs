//! Speed-ups by size, a panel a pattern, a line a width.

use mlff::calibration::{Calibration, Measurement};
use plotters::coord::Shift;
use plotters::prelude::*;

/// Of narrow, middling and wide rows.
const COLORS: [RGBColor; 3] = [RGBColor(52, 101, 164), RGBColor(206, 92, 0), RGBColor(78, 154, 6)];
const COLUMNS: usize = 4;
const PANEL: (u32, u32) = (300, 250);

/// SVG of all measurements.
pub fn chart(calibration: &Calibration) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, calibration).map_err(|e| e.to_string())?;
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(svg: &mut String, calibration: &Calibration) -> Drawn {
    let all = &calibration.measurements;
    let columns = all.len().clamp(1, COLUMNS);
    let rows = all.len().div_ceil(columns).max(1);
    let size = (PANEL.0 * columns as u32, 30 + PANEL.1 * rows as u32);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    let title = all.first().map_or_else(String::new, |m| {
        format!(
            "speed-up of fusing by rows (edges, atoms); {}, {}; dashed: threshold {}",
            m.device.name,
            m.dtype.name(),
            calibration.threshold
        )
    });
    let body = root.titled(&title, ("sans-serif", 14))?;
    for (area, measurement) in body.split_evenly((rows, columns)).iter().zip(all) {
        panel(area, measurement, calibration.threshold)?;
    }
    root.present()?;
    Ok(())
}

fn panel(area: &DrawingArea<SVGBackend, Shift>, measurement: &Measurement, threshold: f64) -> Drawn {
    let points = &measurement.points;
    let rows = points.iter().map(|p| p.rows as f64);
    let (first, last) = rows.fold((f64::INFINITY, 1.0_f64), |(low, high), x| (low.min(x), high.max(x)));
    let range = 0.8 * first.min(last)..1.25 * last;
    let highest = points.iter().map(|p| p.speedup).fold(threshold.max(1.0), f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(measurement.pattern.name(), ("sans-serif", 14))
        .margin(8)
        .x_label_area_size(24)
        .y_label_area_size(32)
        .build_cartesian_2d(range.clone().log_scale(), 0.0..1.2 * highest)?;
    chart
        .configure_mesh()
        .x_labels(5)
        .y_labels(5)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.1}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    let ends = [(range.start, threshold), (range.end, threshold)];
    chart.draw_series(DashedLineSeries::new(ends, 4, 4, BLACK.mix(0.6).into()))?;
    let mut widths: Vec<usize> = points.iter().map(|p| p.width).collect();
    widths.sort_unstable();
    widths.dedup();
    for (&width, color) in widths.iter().zip(COLORS.into_iter().cycle()) {
        let own: Vec<(f64, f64)> =
            points.iter().filter(|p| p.width == width).map(|p| (p.rows as f64, p.speedup)).collect();
        chart
            .draw_series(LineSeries::new(own.iter().copied(), &color))?
            .label(format!("width {width}"))
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 12, y)], color));
        chart.draw_series(own.iter().map(|&p| Circle::new(p, 3, color.filled())))?;
    }
    // Where no line is: those that rise to the highest end in the upper right corner.
    let at_end = points.iter().filter(|p| p.rows as f64 == last).map(|p| p.speedup).fold(0.0, f64::max);
    let at_start = points.iter().filter(|p| p.rows as f64 == first).map(|p| p.speedup).fold(0.0, f64::max);
    let is_rising = at_end > 2.0 * at_start;
    chart
        .configure_series_labels()
        .position(if is_rising { SeriesLabelPosition::UpperLeft } else { SeriesLabelPosition::LowerRight })
        .background_style(TRANSPARENT)
        .border_style(TRANSPARENT)
        .draw()?;
    Ok(())
}
