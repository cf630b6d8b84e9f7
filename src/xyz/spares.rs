//! Memory of frames that are done with, for frames to come.

use std::sync::{Arc, Mutex, PoisonError};

use super::frame::Frame;

/// Bytes of text of the largest frame whose memory is kept: a spare takes no more than some times that, whatever else
/// is in the file.
const LARGEST: usize = 16 << 10;
/// Most spares kept.
const MOST: usize = 4096;
/// Spares that a reader takes at a time.
const AT_A_TIME: usize = 64;

/// Frames that are no longer needed, whose memory a [`Reader`](super::Reader) uses again ([`Reader::reuse`]).
///
/// This pays where one thread reads and others evaluate: to allocate memory in one thread and free it in another is
/// slow. Clones share the same frames.
///
/// [`Reader::reuse`]: super::Reader::reuse
#[derive(Debug, Clone, Default)]
pub struct Spares(Arc<Mutex<Vec<Frame>>>);

impl Spares {
    /// Adds frames that are no longer needed. Large ones are freed instead.
    pub fn give(&self, frames: impl IntoIterator<Item = Frame>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MOST.saturating_sub(spares.len());
        spares.extend(frames.into_iter().filter(|frame| frame.raw.capacity() <= LARGEST).take(room));
    }

    /// Moves some to `stock`.
    pub(super) fn take(&self, stock: &mut Vec<Frame>) {
        let mut spares = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = spares.len().saturating_sub(AT_A_TIME);
        stock.extend(spares.drain(first..));
    }
}
