//! Where the time of an evaluation goes: the thread that evaluates says which part it enters, and each boundary is stamped
//! once, by a monotonic clock or by an event on a GPU's stream.
//!
//! Off, which is how everything but `mlff profile` runs, a boundary is one branch on a flag of the thread.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

mod component;

use crate::error::Result;
pub use component::{Component, Part, Phase};

/// What stamps the boundaries.
#[derive(Clone, Default)]
pub enum Clock {
    /// The system's monotonic clock, read at each boundary.
    #[default]
    Monotonic,
    /// Events on a stream, whose times are read when the recording has ended.
    Events(Rc<RefCell<dyn Events>>),
}

impl Clock {
    /// `monotonic` or `cuda_events`.
    pub fn name(&self) -> &'static str {
        match self {
            Clock::Monotonic => "monotonic",
            Clock::Events(_) => "cuda_events",
        }
    }

    /// Waits until the stream has done what is queued, where there is one: before a clock outside is read.
    ///
    /// # Errors
    /// What the device reports.
    pub fn wait(&self) -> Result<()> {
        match self {
            Clock::Monotonic => Ok(()),
            Clock::Events(events) => events.borrow_mut().wait(),
        }
    }
}

/// Events on a stream: each has the time at which the stream has done what was queued before it.
pub trait Events {
    /// Waits until the stream is idle, forgets all events and records the first.
    ///
    /// # Errors
    /// What the device reports.
    fn start(&mut self) -> Result<()>;

    /// Records one behind what is queued, and waits for nothing. What fails is an error of [`Events::times`].
    fn record(&mut self);

    /// Waits for all events; times since the first of those after it, in their order, none before the one ahead of it.
    ///
    /// # Errors
    /// What the device reports.
    fn times(&mut self) -> Result<Vec<Duration>>;

    /// Waits until the stream is idle.
    ///
    /// # Errors
    /// What the device reports.
    fn wait(&mut self) -> Result<()>;
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

/// A stretch of time that an evaluation spent in one part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Span {
    /// The part.
    pub part: Part,
    /// When it began, since the recording began.
    pub start: Duration,
    /// How long it took.
    pub time: Duration,
}

/// What was recorded.
#[derive(Debug, Clone, Default)]
pub struct Recording {
    /// Between the first and the last stamp: the sum of all entries.
    pub total: Duration,
    /// Parts that were entered, in the order of [`Component::ALL`], then of layers.
    pub entries: Vec<Entry>,
    /// Stamps after the first.
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
    timer: Timer,
    /// The last stamp whose time is known, since the recording began.
    since: Duration,
    slots: Vec<Option<Entry>>,
    boundaries: u64,
    spans: Option<Vec<Span>>,
}

enum Timer {
    Monotonic {
        begin: Instant,
    },
    Events {
        events: Rc<RefCell<dyn Events>>,
        /// The part that each event after the first ends.
        left: Vec<Part>,
    },
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

/// Says that the part at hand runs an operation fused, or as a chain of elementary ones.
#[inline(always)]
pub fn ran(is_fused: bool) {
    if IS_ON.get() {
        note(is_fused);
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
fn note(is_fused: bool) {
    RECORDER.with_borrow_mut(|recorder| {
        if let Some(recorder) = recorder {
            let current = recorder.current;
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
        let outer = self.current;
        match &mut self.timer {
            Timer::Monotonic { begin } => {
                let now = begin.elapsed();
                self.leave(outer, now);
            }
            Timer::Events { events, left } => {
                events.borrow_mut().record();
                left.push(outer);
            }
        }
        self.slot(part).calls += u64::from(is_call);
        self.boundaries += 1;
        self.current = part;
        outer
    }

    /// Gives `part` the time from the last stamp to this one.
    fn leave(&mut self, part: Part, now: Duration) {
        let time = now.saturating_sub(self.since);
        self.slot(part).time += time;
        if let Some(spans) = &mut self.spans {
            spans.push(Span { part, start: self.since, time });
        }
        self.since = now;
    }

    /// Reads the times of events.
    fn resolve(&mut self) -> Result<()> {
        let Timer::Events { events, left } = &mut self.timer else { return Ok(()) };
        let (left, times) = (std::mem::take(left), events.borrow_mut().times()?);
        left.into_iter().zip(times).for_each(|(part, now)| self.leave(part, now));
        Ok(())
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
///
/// # Errors
/// What the device of the events reports.
pub fn record<R>(clock: &Clock, keep_spans: bool, work: impl FnOnce() -> R) -> Result<(R, Recording)> {
    /// Switches off, also when `work` panics.
    struct Off;
    impl Drop for Off {
        fn drop(&mut self) {
            IS_ON.set(false);
        }
    }
    let timer = match clock {
        Clock::Monotonic => Timer::Monotonic { begin: Instant::now() },
        Clock::Events(events) => {
            events.borrow_mut().start()?;
            Timer::Events { events: events.clone(), left: Vec::new() }
        }
    };
    let recorder = Recorder {
        current: Component::Unattributed.into(),
        timer,
        since: Duration::ZERO,
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
    let Some(mut recorder) = RECORDER.take() else { return Ok((out, Recording::default())) };
    recorder.resolve()?;
    let mut entries: Vec<Entry> = recorder.slots.into_iter().flatten().collect();
    entries.sort_by_key(|entry| entry.part);
    let spans = recorder.spans.unwrap_or_default();
    Ok((out, Recording { total: recorder.since, entries, boundaries: recorder.boundaries, spans }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recording_adds_up_and_counts_calls() {
        let (out, recording) = record(&Clock::Monotonic, true, || {
            for l in 0..3 {
                enter(Part::layer(Component::Message, l));
                let inner = within_layer(Component::Filters);
                drop(inner);
            }
            enter(Part::layer(Component::MessageVjp, 2));
            let _inner = within_layer(Component::Filters);
            7
        })
        .unwrap();
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

    /// A stream and the host that queues on it, with times in whole ms: a launch takes the host 1 ms, an event nothing.
    #[derive(Default)]
    struct Stream {
        /// What the host's clock shows.
        host: Duration,
        /// When the stream is done with what is queued.
        done: Duration,
        events: Vec<Duration>,
        is_broken: bool,
    }

    const MS: Duration = Duration::from_millis(1);

    impl Stream {
        fn launch(&mut self, time: Duration) {
            self.host += MS;
            self.done = self.done.max(self.host) + time;
        }

        fn work(&mut self, time: Duration) {
            self.host += time;
        }
    }

    impl Events for Stream {
        fn start(&mut self) -> Result<()> {
            self.wait()?;
            self.events.clear();
            self.record();
            Ok(())
        }

        fn record(&mut self) {
            self.done = self.done.max(self.host);
            self.events.push(self.done);
        }

        fn times(&mut self) -> Result<Vec<Duration>> {
            if self.is_broken {
                return Err(crate::Error::Tensor("the stream is broken".into()));
            }
            self.wait()?;
            Ok(self.events[1..].iter().map(|&time| time - self.events[0]).collect())
        }

        fn wait(&mut self) -> Result<()> {
            self.host = self.host.max(self.done);
            Ok(())
        }
    }

    fn stream() -> (Rc<RefCell<Stream>>, Clock) {
        // A clock starts anywhere.
        let stream = Rc::new(RefCell::new(Stream { host: 77 * MS, ..Stream::default() }));
        (stream.clone(), Clock::Events(stream))
    }

    /// Work of the host alone, launches that queue up, and one that waits: with the times worked out by hand.
    #[test]
    fn events_give_a_part_its_work_on_the_stream_and_the_streams_wait_for_the_host() {
        let (stream, clock) = stream();
        let evaluate = || {
            enter(Component::NeighborSearch);
            stream.borrow_mut().work(5 * MS);
            enter(Component::TensorOperations);
            for l in 0..2 {
                let _part = within(Part::layer(Component::Message, l));
                stream.borrow_mut().launch(10 * MS);
            }
            enter(Component::Results);
            stream.borrow_mut().wait().unwrap();
            stream.borrow_mut().work(3 * MS);
            stream.borrow().host
        };
        for _ in 0..2 {
            let begin = stream.borrow().host;
            let (end, recording) = record(&clock, true, evaluate).unwrap();
            // A clock outside would have shown the same.
            assert_eq!(recording.total, end - begin);
            let times: Vec<(String, Duration)> = recording.entries.iter().map(|e| (e.part.id(), e.time)).collect();
            let want = [
                ("neighbor_search", 5 * MS),
                // The stream waits for the launch, then the second one for the stream.
                ("message.0", 11 * MS),
                ("message.1", 10 * MS),
                ("tensor_operations", Duration::ZERO),
                ("results", 3 * MS),
                ("unattributed", Duration::ZERO),
            ];
            assert_eq!(times, want.map(|(name, time)| (name.to_string(), time)));
            assert_eq!(recording.entries.iter().map(|e| e.time).sum::<Duration>(), recording.total);
            assert_eq!((recording.spans.len() as u64, recording.boundaries), (8, 8));
            for pair in recording.spans.windows(2) {
                assert_eq!(pair[0].start + pair[0].time, pair[1].start);
            }
            let names: Vec<String> = recording.spans.iter().map(|s| s.part.id()).collect();
            let want = ["unattributed", "neighbor_search", "tensor_operations", "message.0"];
            assert_eq!(names[..4], want);
        }
    }

    #[test]
    fn what_fails_on_the_stream_is_an_error_of_the_recording() {
        let (stream, clock) = stream();
        stream.borrow_mut().is_broken = true;
        let failed = record(&clock, false, || enter(Component::Message)).map(|_| ()).unwrap_err();
        assert!(failed.to_string().contains("the stream is broken") && !IS_ON.get());
    }

    /// What an outer part does after an inner one is its own, whatever the clock.
    #[test]
    fn inner_parts_lie_within_outer_ones() {
        let (stream, clock) = stream();
        let ((), recording) = record(&clock, false, || {
            enter(Part::layer(Component::Update, 1));
            stream.borrow_mut().work(MS);
            {
                let _inner = within(Component::Transfers);
                stream.borrow_mut().work(2 * MS);
            }
            stream.borrow_mut().work(4 * MS);
        })
        .unwrap();
        let times: Vec<(String, u64, Duration)> =
            recording.entries.iter().map(|e| (e.part.id(), e.calls, e.time)).collect();
        let want = [("transfers", 1, 2 * MS), ("update.1", 1, 5 * MS), ("unattributed", 1, Duration::ZERO)];
        assert_eq!(times, want.map(|(name, calls, time)| (name.to_string(), calls, time)));
    }

    #[test]
    fn variants_belong_to_the_part_that_ran_them() {
        ran(false);
        let ((), recording) = record(&Clock::Monotonic, false, || {
            enter(Component::Message);
            ran(false);
            enter(Component::Update);
            ran(false);
            ran(true);
            enter(Component::Readout);
        })
        .unwrap();
        let names: Vec<_> = recording.entries.iter().map(|e| e.ran.name()).collect();
        assert_eq!(names, [Some("unfused"), Some("both"), None, None]);
    }

    #[test]
    fn recorder_is_off_outside_and_after_a_panic() {
        enter(Component::Message);
        let panicked = std::panic::catch_unwind(|| record(&Clock::Monotonic, false, || assert!(!IS_ON.get())));
        assert!(panicked.is_err() && !IS_ON.get());
        let ((), recording) = record(&Clock::Monotonic, false, || {}).unwrap();
        assert_eq!((recording.entries.len(), recording.boundaries), (1, 1));
    }
}
