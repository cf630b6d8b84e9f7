//! cuBLASLt, found and loaded at run time: the matrix products of large dense layers.
//!
//! f32 throughout: no TF32, which roughens the energy surface. No workspace, so that no product is split along its sum.

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{from_ref, null_mut};

use libloading::Library;

use super::{Product, library};
use crate::error::CudaError;
use crate::error::Result;

type Handle = *mut c_void;
type Create3 = unsafe extern "C" fn(*mut Handle, c_int, c_int) -> c_int;
type SetAttribute = unsafe extern "C" fn(Handle, c_int, *const c_void, usize) -> c_int;
type Destroy = unsafe extern "C" fn(Handle) -> c_int;

// Values of cublasLt.h, cublas_api.h and library_types.h, the same in versions 11 to 13.
const R_32F: c_int = 0;
const COMPUTE_32F: c_int = 68;
const TRANSPOSE_A: c_int = 3;
const EPILOGUE: c_int = 7;
const BIAS_POINTER: c_int = 8;
const EPILOGUE_BIAS: c_int = 4;
const MIN_ALIGNMENT: [c_int; 4] = [5, 6, 7, 8];

/// `cublasLtMatmulAlgo_t`.
type Algorithm = [u64; 8];

/// `cublasLtMatmulHeuristicResult_t`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Heuristic {
    algorithm: Algorithm,
    workspace: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

struct Calls {
    create: unsafe extern "C" fn(*mut Handle) -> c_int,
    destroy: Destroy,
    status: unsafe extern "C" fn(c_int) -> *const c_char,
    version: unsafe extern "C" fn() -> usize,
    operation: Create3,
    operation_set: SetAttribute,
    operation_destroy: Destroy,
    layout: unsafe extern "C" fn(*mut Handle, c_int, u64, u64, i64) -> c_int,
    layout_destroy: Destroy,
    preference: unsafe extern "C" fn(*mut Handle) -> c_int,
    preference_set: SetAttribute,
    preference_destroy: Destroy,
    #[allow(clippy::type_complexity)]
    heuristic: unsafe extern "C" fn(
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        Handle,
        c_int,
        *mut Heuristic,
        *mut c_int,
    ) -> c_int,
    #[allow(clippy::type_complexity)]
    matmul: unsafe extern "C" fn(
        Handle,
        Handle,
        *const c_void,
        u64,
        Handle,
        u64,
        Handle,
        *const c_void,
        u64,
        Handle,
        u64,
        Handle,
        *const Algorithm,
        u64,
        usize,
        *mut c_void,
    ) -> c_int,
}

/// What decides the algorithm: sizes, transposition, bias, addend, alignments.
type Key = ([u32; 3], bool, bool, bool, [u32; 4]);

/// A loaded cuBLASLt with its handle on the context that was current when it was made.
pub(super) struct CublasLt {
    calls: Calls,
    handle: Handle,
    algorithms: HashMap<Key, Algorithm>,
    // Behind `calls`, which points into it.
    _library: Library,
}

// SAFETY: the library's functions may be called from any thread; the handle is used by one at a time (`&mut self`).
unsafe impl Send for CublasLt {}

/// A descriptor that is destroyed with this value.
struct Descriptor(Handle, Destroy);

impl Drop for Descriptor {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: made by the library and not destroyed before.
            unsafe { (self.1)(self.0) };
        }
    }
}

impl CublasLt {
    /// Loads the library and starts it on the current context.
    ///
    /// # Errors
    /// `CudaError::NoLibrary`; `CudaError::Call` if it does not start.
    pub fn open() -> Result<Self> {
        let names = ["libcublasLt.so.13", "libcublasLt.so.12"];
        let missing = |searched| CudaError::NoLibrary { name: "cuBLASLt", package: "nvidia-cublas", searched };
        let library = library::find(&names, "libcublasLt.so").map_err(missing)?;
        // SAFETY: names and signatures are those of cublasLt.h.
        let calls = unsafe {
            Calls {
                create: symbol(&library, "cublasLtCreate")?,
                destroy: symbol(&library, "cublasLtDestroy")?,
                status: symbol(&library, "cublasLtGetStatusString")?,
                version: symbol(&library, "cublasLtGetVersion")?,
                operation: symbol(&library, "cublasLtMatmulDescCreate")?,
                operation_set: symbol(&library, "cublasLtMatmulDescSetAttribute")?,
                operation_destroy: symbol(&library, "cublasLtMatmulDescDestroy")?,
                layout: symbol(&library, "cublasLtMatrixLayoutCreate")?,
                layout_destroy: symbol(&library, "cublasLtMatrixLayoutDestroy")?,
                preference: symbol(&library, "cublasLtMatmulPreferenceCreate")?,
                preference_set: symbol(&library, "cublasLtMatmulPreferenceSetAttribute")?,
                preference_destroy: symbol(&library, "cublasLtMatmulPreferenceDestroy")?,
                heuristic: symbol(&library, "cublasLtMatmulAlgoGetHeuristic")?,
                matmul: symbol(&library, "cublasLtMatmul")?,
            }
        };
        let mut blas = CublasLt { calls, handle: null_mut(), algorithms: HashMap::new(), _library: library };
        let mut handle = null_mut();
        // SAFETY: the pointer is to a live variable.
        blas.check("cublasLtCreate", unsafe { (blas.calls.create)(&mut handle) })?;
        blas.handle = handle;
        Ok(blas)
    }

    /// The library's version, as it counts.
    pub fn version(&self) -> usize {
        // SAFETY: asks for a number.
        unsafe { (self.calls.version)() }
    }

    fn check(&self, call: &str, code: c_int) -> Result<()> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: the library returns a static string for every code.
        let text = unsafe { CStr::from_ptr((self.calls.status)(code)) };
        Err(CudaError::Call { call: call.into(), reason: text.to_string_lossy().into_owned() }.into())
    }

    /// The operation and the layouts of A, B and C. The library's matrices are column-major, ours are their transposes:
    /// outᵀ = op(W) · xᵀ, with A the weights.
    fn describe(&self, p: &Product) -> Result<(Descriptor, [Descriptor; 3])> {
        let mut operation = Descriptor(null_mut(), self.calls.operation_destroy);
        let layout = |rows: u32, columns: u32| {
            let mut layout = Descriptor(null_mut(), self.calls.layout_destroy);
            // SAFETY: the pointer is to a live variable.
            let done =
                unsafe { (self.calls.layout)(&mut layout.0, R_32F, rows.into(), columns.into(), i64::from(rows)) };
            self.check("cublasLtMatrixLayoutCreate", done).map(|()| layout)
        };
        let weight = if p.transposed { layout(p.n_in, p.n_out)? } else { layout(p.n_out, p.n_in)? };
        let layouts = [weight, layout(p.n_in, p.n_rows)?, layout(p.n_out, p.n_rows)?];
        // SAFETY: the pointer is to a live variable; attributes have the types that the header gives.
        unsafe {
            self.check("cublasLtMatmulDescCreate", (self.calls.operation)(&mut operation.0, COMPUTE_32F, R_32F))?;
            let set = |attribute, value: *const c_void, size| {
                let done = (self.calls.operation_set)(operation.0, attribute, value, size);
                self.check("cublasLtMatmulDescSetAttribute", done)
            };
            let transpose = c_int::from(p.transposed);
            set(TRANSPOSE_A, from_ref(&transpose).cast(), size_of::<c_int>())?;
            if p.bias != 0 {
                set(EPILOGUE, from_ref(&EPILOGUE_BIAS).cast(), size_of::<c_int>())?;
                set(BIAS_POINTER, from_ref(&p.bias).cast(), size_of::<u64>())?;
            }
        }
        Ok((operation, layouts))
    }

    fn algorithm(&mut self, p: &Product, operation: &Descriptor, layouts: &[Descriptor; 3]) -> Result<Algorithm> {
        let addresses = [p.weight, p.x, if p.addend == 0 { p.out } else { p.addend }, p.out];
        let alignments = addresses.map(|address| 1_u32 << address.trailing_zeros().min(8));
        let key = ([p.n_rows, p.n_in, p.n_out], p.transposed, p.bias != 0, p.addend != 0, alignments);
        if let Some(&found) = self.algorithms.get(&key) {
            return Ok(found);
        }
        let mut preference = Descriptor(null_mut(), self.calls.preference_destroy);
        let (mut best, mut found) = (Heuristic::default(), 0);
        // SAFETY: the pointers are to live variables; attributes have the types that the header gives.
        unsafe {
            self.check("cublasLtMatmulPreferenceCreate", (self.calls.preference)(&mut preference.0))?;
            for (attribute, alignment) in MIN_ALIGNMENT.into_iter().zip(&alignments) {
                let value = from_ref(alignment).cast();
                let done = (self.calls.preference_set)(preference.0, attribute, value, size_of::<u32>());
                self.check("cublasLtMatmulPreferenceSetAttribute", done)?;
            }
            let [a, b, c] = layouts.each_ref().map(|layout| layout.0);
            let ask = self.calls.heuristic;
            let done = ask(self.handle, operation.0, a, b, c, c, preference.0, 1, &mut best, &mut found);
            self.check("cublasLtMatmulAlgoGetHeuristic", done)?;
        }
        if found == 0 {
            let reason = format!("no algorithm for a product of {} x {} x {}", p.n_rows, p.n_in, p.n_out);
            return Err(CudaError::Call { call: "cublasLtMatmulAlgoGetHeuristic".into(), reason }.into());
        }
        self.algorithms.insert(key, best.algorithm);
        Ok(best.algorithm)
    }

    /// Queues a product on a stream.
    ///
    /// # Safety
    /// Arrays are on the device of the stream and as long as the product says; the stream is the current context's.
    pub unsafe fn product(&mut self, p: &Product, stream: *mut c_void) -> Result<()> {
        let (operation, layouts) = self.describe(p)?;
        let algorithm = self.algorithm(p, &operation, &layouts)?;
        let [a, b, c] = layouts.each_ref().map(|layout| layout.0);
        let (alpha, beta) = (1.0_f32, if p.addend == 0 { 0.0_f32 } else { 1.0 });
        let addend = if p.addend == 0 { p.out } else { p.addend };
        // SAFETY: descriptors live through the call, which copies what it needs; the arrays are the caller's matter.
        let done = unsafe {
            let (alpha, beta) = (from_ref(&alpha).cast(), from_ref(&beta).cast());
            let (weight, x, out) = (p.weight, p.x, p.out);
            (self.calls.matmul)(
                self.handle,
                operation.0,
                alpha,
                weight,
                a,
                x,
                b,
                beta,
                addend,
                c,
                out,
                c,
                &algorithm,
                0,
                0,
                stream,
            )
        };
        self.check("cublasLtMatmul", done)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made by the library and not destroyed before.
            unsafe { (self.calls.destroy)(self.handle) };
        }
    }
}

/// # Safety
/// `F` is the signature of the function.
unsafe fn symbol<F: Copy>(library: &Library, name: &str) -> Result<F> {
    // SAFETY: the caller's.
    let found = unsafe { library.get::<F>(name) };
    let reason = || "cuBLASLt has no such function; that of CUDA 12 and 13 has".to_owned();
    found.map(|f| *f).map_err(|_| CudaError::Call { call: name.into(), reason: reason() }.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the library is, its descriptors can be made without a GPU; its handle cannot.
    #[test]
    fn cublaslt_opens_or_says_what_is_missing() {
        match CublasLt::open() {
            Ok(blas) => assert!(blas.version() >= 120_000),
            Err(error) => {
                let text = error.to_string();
                let known = ["cuBLASLt was not found", "pip install nvidia-cublas", "cublasLtCreate"];
                assert!(known.iter().any(|part| text.contains(part)), "{text}");
            }
        }
    }
}
