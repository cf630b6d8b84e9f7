//! Events on a stream, which stamp the profiler's boundaries.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaEvent, CudaStream};

use super::device::call;
use crate::clock::{Clock, Events};
use crate::error::{Error, Result};

/// Events that are recorded on one stream, one after the other, and kept for the next recording.
pub(crate) struct StreamEvents {
    stream: Arc<CudaStream>,
    events: Vec<CudaEvent>,
    n_recorded: usize,
    failed: Option<Error>,
}

impl StreamEvents {
    pub fn new(stream: Arc<CudaStream>) -> Self {
        StreamEvents { stream, events: Vec::new(), n_recorded: 0, failed: None }
    }

    /// The profiler's clock on a stream, and the name of its GPU.
    ///
    /// # Errors
    /// `CudaError::Call`.
    pub fn clock(stream: Arc<CudaStream>) -> Result<(Clock, String)> {
        let events = StreamEvents::new(stream);
        let name = events.device_name()?;
        Ok((Clock::Events(Rc::new(RefCell::new(events))), name))
    }

    fn device_name(&self) -> Result<String> {
        call("name of the device", self.stream.context().name())
    }

    fn try_record(&mut self) -> Result<()> {
        if self.n_recorded == self.events.len() {
            // Other flags would leave the time out.
            let flags = Some(CUevent_flags::CU_EVENT_DEFAULT);
            self.events.push(call("make an event", self.stream.context().new_event(flags))?);
        }
        call("record an event", self.events[self.n_recorded].record(&self.stream))?;
        self.n_recorded += 1;
        Ok(())
    }
}

impl Events for StreamEvents {
    fn start(&mut self) -> Result<()> {
        self.wait()?;
        (self.n_recorded, self.failed) = (0, None);
        self.try_record()
    }

    fn record(&mut self) {
        if self.failed.is_none() {
            self.failed = self.try_record().err();
        }
    }

    fn times(&mut self) -> Result<Vec<Duration>> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        self.wait()?;
        let mut now = Duration::ZERO;
        // From one to the next, not all from the first: the driver's answer is milliseconds in single precision.
        let next = |pair: &[CudaEvent]| {
            let milliseconds = call("read the time between events", pair[0].elapsed_ms(&pair[1]))?;
            now += Duration::try_from_secs_f64(f64::from(milliseconds) * 1e-3).unwrap_or_default();
            Ok(now)
        };
        self.events[..self.n_recorded].windows(2).map(next).collect()
    }

    fn wait(&mut self) -> Result<()> {
        call("synchronize", self.stream.synchronize())
    }
}
