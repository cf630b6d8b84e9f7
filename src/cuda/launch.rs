//! A kernel launch as plain data, and what can run one.

use super::KernelSource;
use crate::error::Result;
use crate::ops::table::Operation;

/// Address of an array where the kernel runs; 0 where the kernel takes none.
pub type Address = u64;

/// One launch of one kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Name of the kernel.
    pub kernel: String,
    /// Blocks; a zero says that there is nothing to do.
    pub grid: [u32; 3],
    /// Threads of a block.
    pub block: u32,
    /// Blocks of a cluster, as the kernel was compiled: 1 for none.
    pub cluster: u32,
    /// Dynamic shared memory, bytes.
    pub shared_bytes: u32,
    /// Arguments in order.
    pub args: Vec<Arg>,
}

impl Launch {
    /// Whether there is nothing to do; the driver refuses an empty grid.
    pub fn is_empty(&self) -> bool {
        self.grid.contains(&0)
    }
}

/// One argument of a kernel: its bytes from the low end of the words on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// A number or an address.
    Word(u64),
    /// A struct.
    Struct(Vec<u64>),
}

impl Arg {
    /// An operation's sizes: a struct of 32-bit numbers.
    pub fn sizes<O: Operation>(sizes: &O) -> Self {
        let pair = |of: &[u32]| of.iter().rev().fold(0, |word, &x| word << 32 | u64::from(x));
        Arg::Struct(sizes.sizes().chunks(2).map(pair).collect())
    }

    /// An operation's arrays: a struct of addresses.
    pub fn arrays<O: Operation>(arrays: &O::Arrays<Address>) -> Self {
        Arg::Struct(O::in_order(arrays))
    }

    /// Its words.
    pub fn words(&self) -> &[u64] {
        match self {
            Arg::Word(word) => std::slice::from_ref(word),
            Arg::Struct(words) => words,
        }
    }
}

impl From<Address> for Arg {
    fn from(address: Address) -> Self {
        Arg::Word(address)
    }
}

impl From<u32> for Arg {
    fn from(x: u32) -> Self {
        Arg::Word(u64::from(x))
    }
}

impl From<f64> for Arg {
    fn from(x: f64) -> Self {
        Arg::Word(x.to_bits())
    }
}

impl From<f32> for Arg {
    fn from(x: f32) -> Self {
        Arg::Word(u64::from(x.to_bits()))
    }
}

/// A matrix product that a library makes: `out = x · W + bias + addend`, f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Product {
    /// Rows of `x` and `out`.
    pub n_rows: u32,
    /// Columns of `x`.
    pub n_in: u32,
    /// Columns of `out`.
    pub n_out: u32,
    /// Whether `weight` is `[n_out, n_in]`, the transpose of W.
    pub transposed: bool,
    /// `[n_rows, n_in]`.
    pub x: Address,
    /// W `[n_in, n_out]`, or its transpose.
    pub weight: Address,
    /// `[n_out]`, or 0.
    pub bias: Address,
    /// `[n_rows, n_out]`, or 0; may be `out`.
    pub addend: Address,
    /// `[n_rows, n_out]`, overwritten.
    pub out: Address,
}

/// What an operation consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A kernel of ours.
    Kernel(Launch),
    /// A library's.
    Product(Product),
}

/// Memory of the host that copies to and from a backend are made from; aligned for all elements.
pub trait HostMemory: Send {
    /// Its bytes.
    fn bytes(&mut self) -> &mut [u8];
}

/// Memory as the system gives it.
impl HostMemory for Vec<u64> {
    fn bytes(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(self)
    }
}

/// Something that runs launches on memory of its own: a device, or the host in place of one.
pub trait Backend {
    /// Makes programs ready; kernels of the same name that were there before are replaced.
    ///
    /// # Errors
    /// `CudaError::Compilation`; what the backend reports.
    fn load(&mut self, sources: &[KernelSource]) -> Result<()>;

    /// Allocates an array; address 0 for no bytes. What it holds is anything.
    ///
    /// # Errors
    /// What the backend reports: [`CudaError::OutOfMemory`](crate::error::CudaError) where there is no room.
    fn allocate(&mut self, n_bytes: usize) -> Result<Address>;

    /// Allocates memory of the host of at least so many bytes, such that copies are fast.
    ///
    /// # Errors
    /// What the backend reports.
    fn host_memory(&mut self, n_bytes: usize) -> Result<Box<dyn HostMemory>> {
        Ok(Box::new(vec![0_u64; n_bytes.div_ceil(8)]))
    }

    /// Queues a copy into an array behind what was queued before.
    ///
    /// # Safety
    /// The array is of this backend and has as many bytes; `bytes` stay as they are until [`Backend::wait`].
    ///
    /// # Errors
    /// What the backend reports.
    unsafe fn write(&mut self, address: Address, bytes: &[u8]) -> Result<()>;

    /// Queues a copy from an array behind what was queued before.
    ///
    /// # Safety
    /// The array is of this backend and has as many bytes; nobody uses `bytes` until [`Backend::wait`].
    ///
    /// # Errors
    /// What the backend reports.
    unsafe fn read(&mut self, address: Address, bytes: &mut [u8]) -> Result<()>;

    /// Waits for everything that was queued.
    ///
    /// # Errors
    /// What the backend reports, also of kernels that ran before.
    fn wait(&mut self) -> Result<()>;

    /// Allocates an array and copies `bytes` into it; address 0 for no bytes.
    ///
    /// # Errors
    /// What the backend reports.
    fn upload(&mut self, bytes: &[u8]) -> Result<Address>;

    /// Copies an array back.
    ///
    /// # Safety
    /// `address` holds at least as many bytes, on this backend.
    ///
    /// # Errors
    /// What the backend reports.
    unsafe fn download(&mut self, address: Address, bytes: &mut [u8]) -> Result<()>;

    /// Frees what `upload` allocated.
    ///
    /// # Safety
    /// `address` comes from this backend and is not used again.
    ///
    /// # Errors
    /// What the backend reports.
    unsafe fn free(&mut self, address: Address) -> Result<()>;

    /// Queues a launch behind the ones before; an empty one does nothing.
    ///
    /// # Safety
    /// The arguments are those of the kernel, and its arrays are on this backend with the shapes that the kernel documents.
    ///
    /// # Errors
    /// What the backend reports; faults of the kernel itself may show at a later call.
    unsafe fn launch(&mut self, launch: &Launch) -> Result<()>;

    /// Queues a library's product.
    ///
    /// # Safety
    /// Its arrays are on this backend and as long as it says.
    ///
    /// # Errors
    /// `CudaError::NoLibrary` where there is no library; what it reports.
    unsafe fn product(&mut self, product: &Product) -> Result<()>;

    /// Queues a step.
    ///
    /// # Safety
    /// As [`Backend::launch`] and [`Backend::product`].
    ///
    /// # Errors
    /// Theirs.
    unsafe fn step(&mut self, step: &Step) -> Result<()> {
        // SAFETY: the caller's.
        match step {
            Step::Kernel(launch) => unsafe { self.launch(launch) },
            Step::Product(product) => unsafe { self.product(product) },
        }
    }
}
