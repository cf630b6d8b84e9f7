//! Arrays that several threads fill by rows of their own.

use std::marker::PhantomData;
use std::ops::Range;

/// A borrowed array whose parts are handed out to the tasks of a stage.
#[derive(Debug)]
pub(super) struct SharedSlice<'a, X> {
    data: *mut X,
    len: usize,
    of: PhantomData<&'a mut [X]>,
}

// SAFETY: access is by the unsafe methods below, whose callers keep writers apart.
unsafe impl<X: Send + Sync> Sync for SharedSlice<'_, X> {}
// SAFETY: as above.
unsafe impl<X: Send + Sync> Send for SharedSlice<'_, X> {}

impl<'a, X> SharedSlice<'a, X> {
    pub fn new(x: &'a mut [X]) -> Self {
        SharedSlice { data: x.as_mut_ptr(), len: x.len(), of: PhantomData }
    }

    /// The elements of a range.
    ///
    /// # Safety
    /// No task that may run at the same time writes to them.
    pub unsafe fn read(&self, range: Range<usize>) -> &'a [X] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the borrowed array; not written meanwhile, by the caller.
        unsafe { std::slice::from_raw_parts(self.data.add(range.start), range.len()) }
    }

    /// The elements of a range, to be written.
    ///
    /// # Safety
    /// No task that may run at the same time reads or writes them, and this task holds no other reference to them.
    pub unsafe fn write(&self, range: Range<usize>) -> &'a mut [X] {
        assert!(range.start <= range.end && range.end <= self.len);
        // SAFETY: inside the borrowed array; nobody else's meanwhile, by the caller.
        unsafe { std::slice::from_raw_parts_mut(self.data.add(range.start), range.len()) }
    }
}

/// Rows of a shared array of layers, `[n_layers, n_rows, width]`.
#[derive(Debug)]
pub(super) struct Rows<'a, X> {
    data: SharedSlice<'a, X>,
    n_rows: usize,
    width: usize,
}

impl<'a, X> Rows<'a, X> {
    pub fn new(x: &'a mut [X], n_rows: usize, width: usize) -> Self {
        Rows { data: SharedSlice::new(x), n_rows, width }
    }

    fn range(&self, layer: usize, rows: &Range<usize>) -> Range<usize> {
        let first = layer * self.n_rows;
        (first + rows.start) * self.width..(first + rows.end) * self.width
    }

    /// Some rows of a layer.
    ///
    /// # Safety
    /// As [`SharedSlice::read`].
    pub unsafe fn read(&self, layer: usize, rows: &Range<usize>) -> &'a [X] {
        // SAFETY: the caller's.
        unsafe { self.data.read(self.range(layer, rows)) }
    }

    /// All rows of a layer.
    ///
    /// # Safety
    /// As [`SharedSlice::read`].
    pub unsafe fn layer(&self, layer: usize) -> &'a [X] {
        // SAFETY: the caller's.
        unsafe { self.read(layer, &(0..self.n_rows)) }
    }

    /// Some rows of a layer, to be written.
    ///
    /// # Safety
    /// As [`SharedSlice::write`].
    pub unsafe fn write(&self, layer: usize, rows: &Range<usize>) -> &'a mut [X] {
        // SAFETY: the caller's.
        unsafe { self.data.write(self.range(layer, rows)) }
    }
}
