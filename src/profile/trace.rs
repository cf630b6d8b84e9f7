//! A time line for `chrome://tracing` and <https://ui.perfetto.dev>.

use serde_json::{Value, json};

use crate::clock::{Component, Span};

/// One evaluation as a time line: JSON for `chrome://tracing` and <https://ui.perfetto.dev>.
///
/// `spans` are those of [`measure`](super::measure), `name` is that of the process in the picture. Events are complete
/// ones (`ph: X`), with times in µs.
pub fn trace(spans: &[Span], name: &str) -> Value {
    let us = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    let mut events = vec![json!({"ph": "M", "pid": 1, "tid": 1, "name": "process_name", "args": {"name": name}})];
    let events_of = spans.iter().filter(|s| s.part.component != Component::Unattributed).map(|span| {
        json!({
            "ph": "X",
            "name": span.part.id(),
            "cat": span.part.component.phase(),
            "pid": 1,
            "tid": 1,
            "ts": us(span.start),
            "dur": us(span.time),
        })
    });
    events.extend(events_of);
    json!({"displayTimeUnit": "ns", "traceEvents": events})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, Part, enter, record};

    #[test]
    fn trace_has_an_event_for_every_span_of_a_component() {
        let ((), recording) = record(&Clock::Monotonic, true, || {
            enter(Part::layer(Component::MessageVjp, 1));
            enter(Component::Results);
        })
        .unwrap();
        let got = trace(&recording.spans, "mlff");
        let events = got["traceEvents"].as_array().unwrap();
        let names: Vec<&str> = events.iter().map(|e| e["name"].as_str().unwrap()).collect();
        assert_eq!(names, ["process_name", "message_vjp.1", "results"]);
        assert_eq!(events[1]["cat"], "backward");
        assert!(events[2]["ts"].as_f64() >= events[1]["ts"].as_f64());
    }
}
