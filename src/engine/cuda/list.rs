//! A neighbour list that stays on the device from step to step.

use super::{Scalar, Worker};
use crate::batch::check_edges;
use crate::cuda::{Address, Backend};
use crate::error::{Error, Result};
use crate::neighbors::NeighborList;

/// Where a list stands on the device.
#[derive(Debug, Default)]
pub(super) struct ListArrays {
    pub base: Address,
    n_bytes: usize,
    pub n_atoms: usize,
    pub n_edges: usize,
    pub ptr: Address,
    pub senders: Address,
    pub reverse: Address,
    /// 0 for none.
    pub shifts: Address,
}

impl<T: Scalar, B: Backend> Worker<T, B> {
    /// Copies a list to the device, in place of the one before, for batches whose edges are
    /// [`Listed`](super::EdgeSource::Listed). `false` if it cannot be there: an atom's image is more than 127 cells away.
    ///
    /// # Errors
    /// `Error::Usage` for lists that do not fit together; what the backend reports, and there is no list then.
    pub fn set_list(&mut self, list: &NeighborList, periodic: bool) -> Result<bool> {
        let n_atoms = list.edge_ptr.len().saturating_sub(1);
        check_edges(&list.edge_ptr, &list.senders, &list.reverse_edge, n_atoms)?;
        if periodic && list.shifts.len() != list.n_edges() {
            return Err(Error::Usage("the list's edges and shifts are not as many".into()));
        }
        let shift = |shift: &[i32; 3]| -> Option<u32> {
            let [x, y, z] = shift.map(|s| i8::try_from(s).map(|s| s.to_le_bytes()[0]));
            Some(u32::from_le_bytes([x.ok()?, y.ok()?, z.ok()?, 0]))
        };
        let shifts: Option<Vec<u32>> = match periodic {
            true => list.shifts.iter().map(shift).collect(),
            false => Some(Vec::new()),
        };
        let Some(shifts) = shifts else { return Ok(false) };
        let parts = [&list.edge_ptr[..], &list.senders, &list.reverse_edge, &shifts];
        let mut ends = [0; 4];
        let mut n_bytes = 0;
        for (end, part) in ends.iter_mut().zip(parts) {
            *end = n_bytes;
            n_bytes += (4 * part.len()).next_multiple_of(256);
        }
        let bytes = self.inputs.bytes(&mut self.backend, n_bytes)?;
        for (&start, part) in ends.iter().zip(parts) {
            let part: &[u8] = bytemuck::cast_slice(part);
            bytes[start..start + part.len()].copy_from_slice(part);
        }
        if n_bytes > self.list.n_bytes {
            let old = std::mem::take(&mut self.list);
            self.backend.wait()?;
            // SAFETY: allocated below, and nothing that was queued uses it any more.
            unsafe { self.backend.free(old.base)? };
            let room = n_bytes + n_bytes / 8;
            self.list.base = self.backend.allocate(room)?;
            self.list.n_bytes = room;
        }
        // SAFETY: as long as that; `inputs` is left alone until the wait.
        unsafe { self.backend.write(self.list.base, bytes)? };
        self.backend.wait()?;
        let [ptr, senders, reverse, shifts_at] = ends.map(|start| self.list.base + start as u64);
        let shifts = if periodic { shifts_at } else { 0 };
        self.list = ListArrays { ptr, senders, reverse, shifts, n_atoms, n_edges: list.n_edges(), ..self.list };
        Ok(true)
    }
}
