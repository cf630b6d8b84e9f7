//! The profile as a chart: shares of the components, and times by batch size.

use mlff::profile::{Phase, Profile};
use plotters::coord::Shift;
use plotters::coord::ranged1d::{IntoSegmentedCoord, SegmentValue};
use plotters::prelude::*;

const FORWARD: RGBColor = RGBColor(52, 101, 164);
const BACKWARD: RGBColor = RGBColor(206, 92, 0);
const OTHER: RGBColor = RGBColor(136, 138, 133);

/// SVG of the components whose `id` is to be shown.
pub fn chart(profile: &Profile, shown: impl Fn(&str) -> bool) -> Result<String, String> {
    let mut svg = String::new();
    draw(&mut svg, profile, shown).map_err(|e| e.to_string())?;
    Ok(svg)
}

type Drawn = Result<(), Box<dyn std::error::Error>>;

fn draw(svg: &mut String, profile: &Profile, shown: impl Fn(&str) -> bool) -> Drawn {
    let mut bars: Vec<Bar> = profile
        .components
        .iter()
        .filter(|c| c.parent.is_none() && shown(&c.id))
        .map(|c| Bar { name: &c.id, share: c.share, color: color(c.phase) })
        .collect();
    bars.push(Bar { name: "unattributed", share: profile.derived.unattributed_share, color: OTHER });
    let sweep = &profile.derived.sweep;
    let width = if sweep.is_empty() { 620 } else { 1060 };
    let size = (width, 110 + 26 * bars.len().max(10) as u32);
    let root = SVGBackend::with_string(svg, size).into_drawing_area();
    root.fill(&WHITE)?;
    let (left, right) = root.split_horizontally(620);
    shares(&left, profile, &bars)?;
    if !sweep.is_empty() {
        batches(&right, profile)?;
    }
    root.present()?;
    Ok(())
}

struct Bar<'a> {
    name: &'a str,
    share: f64,
    color: RGBColor,
}

fn color(phase: Phase) -> RGBColor {
    match phase {
        Phase::Forward => FORWARD,
        Phase::Backward => BACKWARD,
        Phase::Other => OTHER,
    }
}

fn shares(area: &DrawingArea<SVGBackend, Shift>, profile: &Profile, bars: &[Bar]) -> Drawn {
    let longest = bars.iter().map(|b| b.share).fold(0.01, f64::max);
    let title = format!("{} engine, {}: share of energy and forces (%)", profile.run.engine, profile.workload.name);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 15))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(160)
        .build_cartesian_2d(0.0..112.0 * longest, (0..bars.len() - 1).into_segmented())?;
    // The first bar on top.
    let bar = |segment: &SegmentValue<usize>| match segment {
        SegmentValue::CenterOf(k) | SegmentValue::Exact(k) => bars.len().checked_sub(k + 1).and_then(|k| bars.get(k)),
        SegmentValue::Last => None,
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .light_line_style(TRANSPARENT)
        .y_labels(bars.len())
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|segment| bar(segment).map_or_else(String::new, |b| b.name.into()))
        .draw()?;
    for (k, bar) in bars.iter().rev().enumerate() {
        let percent = 100.0 * bar.share;
        let corners = [(0.0, SegmentValue::Exact(k)), (percent, SegmentValue::Exact(k + 1))];
        let mut rectangle = Rectangle::new(corners, bar.color.filled());
        rectangle.set_margin(3, 3, 0, 0);
        let label = Text::new(format!(" {percent:.1}"), (percent, SegmentValue::CenterOf(k)), label_style());
        chart.draw_series([rectangle])?;
        chart.draw_series([label])?;
    }
    for (name, color) in [("forward", FORWARD), ("backward", BACKWARD), ("other", OTHER)] {
        // Drawn outside of the view, for the legend.
        let nothing = Rectangle::new([(0.0, SegmentValue::Exact(0)), (0.0, SegmentValue::Exact(0))], color.filled());
        chart
            .draw_series([nothing])?
            .label(name)
            .legend(move |(x, y)| Rectangle::new([(x, y - 5), (x + 12, y + 5)], color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.8))
        .border_style(TRANSPARENT)
        .draw()?;
    Ok(())
}

fn label_style() -> TextStyle<'static> {
    use plotters::style::text_anchor::{HPos, Pos, VPos};
    ("sans-serif", 12).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center))
}

fn batches(area: &DrawingArea<SVGBackend, Shift>, profile: &Profile) -> Drawn {
    let points: Vec<(f64, f64)> =
        profile.derived.sweep.iter().map(|p| (p.batch as f64, 1e6 * p.time_per_structure)).collect();
    let first = points.first().map_or(1.0, |p| p.0);
    let last = points.last().map_or(1.0, |p| p.0);
    let highest = points.iter().map(|p| p.1).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption("time of a structure (µs)", ("sans-serif", 15))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(56)
        .build_cartesian_2d((0.8 * first..2.0 * last).log_scale(), 0.0..1.15 * highest)?;
    chart
        .configure_mesh()
        .x_desc("structures in a batch")
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| format!("{y:.0}"))
        .light_line_style(TRANSPARENT)
        .draw()?;
    chart.draw_series(LineSeries::new(points.iter().copied(), &FORWARD))?;
    chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, FORWARD.filled())))?;
    for (point, p) in points.iter().zip(&profile.derived.sweep) {
        let label = Text::new(format!(" ×{:.2}", p.speedup), (point.0, point.1 + 0.05 * highest), label_style());
        chart.draw_series([label])?;
    }
    Ok(())
}
