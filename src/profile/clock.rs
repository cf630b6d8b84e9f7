//! Where the time of an evaluation goes: the thread that evaluates says which part it enters, and a monotonic clock is
//! read once at each boundary.
//!
//! Off, which is how everything but `mlff profile` runs, a boundary is one branch on a flag of the thread.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use crate::calibration::Variant;

/// What work belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// Checking a structure and finding its neighbours.
    NeighborSearch,
    /// Putting structures together, and making room for their results.
    Batch,
    /// Distances and directions of edges.
    EdgeGeometry,
    /// Radial basis and cutoff.
    RadialBasis,
    /// Interaction context: the dense layers before a message.
    Context,
    /// Filters of a message.
    Filters,
    /// What neighbours send.
    Message,
    /// Update of an atom by itself.
    Update,
    /// Energies.
    Readout,
    /// Tensor operations of candle between the custom ones.
    TensorOperations,
    /// Backward of the readout.
    ReadoutVjp,
    /// Backward of an update.
    UpdateVjp,
    /// Backward of a message.
    MessageVjp,
    /// Backward of filters, and filters computed again.
    FiltersVjp,
    /// Backward of an interaction context.
    ContextVjp,
    /// Backward of the radial basis.
    RadialBasisVjp,
    /// Backward of the geometry: from edges to positions.
    EdgeGeometryVjp,
    /// candle's walk of the tape and its tensor operations in it.
    TensorOperationsVjp,
    /// Results out of the engine.
    Results,
    /// Everything else.
    Unattributed,
}

/// Half of an evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From positions to energies.
    Forward,
    /// From energies to forces.
    Backward,
    /// Before and after both.
    Other,
}

impl Component {
    /// All, in the order of an evaluation.
    pub const ALL: [Component; 20] = [
        Component::NeighborSearch,
        Component::Batch,
        Component::EdgeGeometry,
        Component::RadialBasis,
        Component::Context,
        Component::Filters,
        Component::Message,
        Component::Update,
        Component::Readout,
        Component::TensorOperations,
        Component::ReadoutVjp,
        Component::UpdateVjp,
        Component::MessageVjp,
        Component::FiltersVjp,
        Component::ContextVjp,
        Component::RadialBasisVjp,
        Component::EdgeGeometryVjp,
        Component::TensorOperationsVjp,
        Component::Results,
        Component::Unattributed,
    ];

    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Component::NeighborSearch => "neighbor_search",
            Component::Batch => "batch",
            Component::EdgeGeometry => "edge_geometry",
            Component::RadialBasis => "radial_basis",
            Component::Context => "context",
            Component::Filters => "filters",
            Component::Message => "message",
            Component::Update => "update",
            Component::Readout => "readout",
            Component::TensorOperations => "tensor_operations",
            Component::ReadoutVjp => "readout_vjp",
            Component::UpdateVjp => "update_vjp",
            Component::MessageVjp => "message_vjp",
            Component::FiltersVjp => "filters_vjp",
            Component::ContextVjp => "context_vjp",
            Component::RadialBasisVjp => "radial_basis_vjp",
            Component::EdgeGeometryVjp => "edge_geometry_vjp",
            Component::TensorOperationsVjp => "tensor_operations_vjp",
            Component::Results => "results",
            Component::Unattributed => "unattributed",
        }
    }

    /// Half of the evaluation that it belongs to.
    pub fn phase(self) -> Phase {
        use Component as C;
        match self {
            C::NeighborSearch | C::Batch | C::Results | C::Unattributed => Phase::Other,
            C::EdgeGeometry | C::RadialBasis | C::Context | C::Filters | C::Message | C::Update | C::Readout => {
                Phase::Forward
            }
            C::TensorOperations => Phase::Forward,
            _ => Phase::Backward,
        }
    }

    /// Its backward; itself if it has none.
    pub fn vjp(self) -> Component {
        match self {
            Component::EdgeGeometry => Component::EdgeGeometryVjp,
            Component::RadialBasis => Component::RadialBasisVjp,
            Component::Context => Component::ContextVjp,
            Component::Filters => Component::FiltersVjp,
            Component::Message => Component::MessageVjp,
            Component::Update => Component::UpdateVjp,
            Component::Readout => Component::ReadoutVjp,
            Component::TensorOperations => Component::TensorOperationsVjp,
            other => other,
        }
    }
}

/// A component, in one layer where it has layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// Component.
    pub component: Component,
    /// Layer, from 0.
    pub layer: Option<u8>,
}

impl Part {
    /// A component in layer `l`; layers beyond the 256th count as one.
    #[inline(always)]
    pub fn layer(component: Component, l: usize) -> Part {
        Part { component, layer: Some(l.min(u8::MAX.into()) as u8) }
    }

    /// `component` or `component.layer`.
    pub fn id(self) -> String {
        match self.layer {
            Some(l) => format!("{}.{l}", self.component.name()),
            None => self.component.name().into(),
        }
    }

    /// The same layer's backward.
    pub fn vjp(self) -> Part {
        Part { component: self.component.vjp(), ..self }
    }

    fn slot(self) -> usize {
        self.layer.map_or(0, |l| usize::from(l) + 1) * Component::ALL.len() + self.component as usize
    }
}

impl From<Component> for Part {
    #[inline(always)]
    fn from(component: Component) -> Part {
        Part { component, layer: None }
    }
}

/// Which variants of its operations a part ran, where there is a choice.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ran {
    /// The fused one.
    pub fused: bool,
    /// The chain of elementary operations.
    pub unfused: bool,
}

impl Ran {
    /// `fused`, `unfused` or `both`; `None` where there was no choice.
    pub fn name(self) -> Option<&'static str> {
        match (self.fused, self.unfused) {
            (true, false) => Some("fused"),
            (false, true) => Some("unfused"),
            (true, true) => Some("both"),
            (false, false) => None,
        }
    }
}

impl std::ops::BitOrAssign for Ran {
    fn bitor_assign(&mut self, other: Ran) {
        self.fused |= other.fused;
        self.unfused |= other.unfused;
    }
}

/// Time and calls of a part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// Which part.
    pub part: Part,
    /// How often it was entered.
    pub calls: u64,
    /// Time in it.
    pub time: Duration,
    /// Variants of its operations.
    pub ran: Ran,
}

/// A part's stretch of time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// Which part.
    pub part: Part,
    /// Since the recording began.
    pub start: Duration,
    /// How long.
    pub time: Duration,
}

/// What was recorded.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// Between the first and the last reading of the clock: the sum of all entries.
    pub total: Duration,
    /// Parts that were entered, in the order of [`Component::ALL`], then of layers.
    pub entries: Vec<Entry>,
    /// Readings of the clock.
    pub boundaries: u64,
    /// In the order of time, where asked for.
    pub spans: Vec<Span>,
}

impl Recording {
    /// Calls of a part.
    pub fn calls(&self, part: Part) -> u64 {
        self.entries.iter().find(|e| e.part == part).map_or(0, |e| e.calls)
    }
}

struct Recorder {
    current: Part,
    begin: Instant,
    since: Instant,
    slots: Vec<Option<Entry>>,
    boundaries: u64,
    spans: Option<Vec<Span>>,
}

thread_local! {
    static IS_ON: Cell<bool> = const { Cell::new(false) };
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
}

/// Says that this thread's work belongs to `part` from now on.
#[inline(always)]
pub fn enter(part: impl Into<Part>) {
    if IS_ON.get() {
        switch(part.into(), true);
    }
}

/// Says that this thread's work belongs to `part` until the value returned is dropped, then to what it did before.
#[inline(always)]
pub fn within(part: impl Into<Part>) -> Within {
    Within(if IS_ON.get() { switch(part.into(), true) } else { None })
}

/// As [`within`], for the layer at hand, in the forward or the backward as it may be.
#[inline(always)]
pub fn within_layer(component: Component) -> Within {
    Within(if IS_ON.get() { switch_layer(component) } else { None })
}

/// Says which variant of an operation the part at hand runs.
#[inline(always)]
pub fn ran(variant: Variant) {
    if IS_ON.get() {
        note(variant);
    }
}

/// See [`within`].
#[derive(Debug)]
pub struct Within(Option<Part>);

impl Drop for Within {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(outer) = self.0 {
            switch(outer, false);
        }
    }
}

#[cold]
#[inline(never)]
fn switch(part: Part, is_call: bool) -> Option<Part> {
    RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(|r| r.switch(part, is_call)))
}

#[cold]
#[inline(never)]
fn note(variant: Variant) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            let current = recorder.current;
            let is_fused = variant == Variant::Fused;
            recorder.slot(current).ran |= Ran { fused: is_fused, unfused: !is_fused };
        }
    });
}

#[cold]
#[inline(never)]
fn switch_layer(component: Component) -> Option<Part> {
    RECORDER.with_borrow_mut(|recorder| {
        let recorder = recorder.as_mut()?;
        let Part { component: outer, layer } = recorder.current;
        let component = if outer.phase() == Phase::Backward { component.vjp() } else { component };
        Some(recorder.switch(Part { component, layer }, true))
    })
}

impl Recorder {
    fn switch(&mut self, part: Part, is_call: bool) -> Part {
        let now = Instant::now();
        let (outer, time) = (self.current, now - self.since);
        self.slot(outer).time += time;
        if let Some(spans) = &mut self.spans {
            spans.push(Span { part: outer, start: self.since - self.begin, time });
        }
        self.slot(part).calls += u64::from(is_call);
        self.boundaries += 1;
        (self.current, self.since) = (part, now);
        outer
    }

    fn slot(&mut self, part: Part) -> &mut Entry {
        let slot = part.slot();
        if self.slots.len() <= slot {
            self.slots.resize(slot + 1, None);
        }
        self.slots[slot].get_or_insert(Entry { part, calls: 0, time: Duration::ZERO, ran: Ran::default() })
    }
}

/// Runs `work` on this thread with the recorder on. Work that it gives to other threads is not seen: it counts as time of
/// the part that waits for it.
pub fn record<R>(keep_spans: bool, work: impl FnOnce() -> R) -> (R, Recording) {
    /// Switches off, also when `work` panics.
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            IS_ON.set(false);
        }
    }
    let now = Instant::now();
    let recorder = Recorder {
        current: Component::Unattributed.into(),
        begin: now,
        since: now,
        slots: vec![None; 16 * Component::ALL.len()],
        boundaries: 0,
        spans: keep_spans.then(Vec::new),
    };
    RECORDER.set(Some(recorder));
    let off = Off;
    IS_ON.set(true);
    let out = work();
    enter(Component::Unattributed);
    drop(off);
    let Some(recorder) = RECORDER.take() else { return (out, Recording::default()) };
    let mut entries: Vec<Entry> = recorder.slots.into_iter().flatten().collect();
    entries.sort_by_key(|entry| entry.part);
    let spans = recorder.spans.unwrap_or_default();
    (out, Recording { total: recorder.since - recorder.begin, entries, boundaries: recorder.boundaries, spans })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_adds_up_and_counts_calls() {
        let (out, recording) = record(true, || {
            for l in 0..3 {
                enter(Part::layer(Component::Message, l));
                let inner = within_layer(Component::Filters);
                drop(inner);
            }
            enter(Part::layer(Component::MessageVjp, 2));
            let _inner = within_layer(Component::Filters);
            7
        });
        assert_eq!(out, 7);
        for l in 0..3 {
            assert_eq!(recording.calls(Part::layer(Component::Message, l)), 1);
            assert_eq!(recording.calls(Part::layer(Component::Filters, l)), 1);
        }
        assert_eq!(recording.calls(Part::layer(Component::FiltersVjp, 2)), 1);
        assert_eq!(recording.entries.iter().map(|e| e.time).sum::<Duration>(), recording.total);
        assert_eq!(recording.spans.iter().map(|s| s.time).sum::<Duration>(), recording.total);
        assert_eq!(recording.spans.len() as u64, recording.boundaries);
    }

    #[test]
    fn variants_belong_to_the_part_that_ran_them() {
        ran(Variant::Unfused);
        let ((), recording) = record(false, || {
            enter(Component::Message);
            ran(Variant::Unfused);
            enter(Component::Update);
            ran(Variant::Unfused);
            ran(Variant::Fused);
            enter(Component::Readout);
        });
        let names: Vec<_> = recording.entries.iter().map(|e| e.ran.name()).collect();
        assert_eq!(names, [Some("unfused"), Some("both"), None, None]);
    }

    #[test]
    fn recorder_is_off_outside_and_after_a_panic() {
        enter(Component::Message);
        let panicked = std::panic::catch_unwind(|| record(false, || assert!(!IS_ON.get())));
        assert!(panicked.is_err() && !IS_ON.get());
        let ((), recording) = record(false, || {});
        assert_eq!((recording.entries.len(), recording.boundaries), (1, 1));
    }

    #[test]
    fn components_stand_in_the_order_of_their_slots() {
        for (k, component) in Component::ALL.into_iter().enumerate() {
            assert_eq!(component as usize, k);
            assert_eq!(
                component.vjp() == component,
                component.name().ends_with("_vjp") || component.phase() == Phase::Other
            );
        }
    }
}
