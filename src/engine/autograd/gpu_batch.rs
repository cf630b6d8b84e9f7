//! A batch on a GPU, and the custom operations on it: the kernels of `kernels/` over candle's storage.

use std::sync::Arc;

use candle_core::backend::BackendStorage;
use candle_core::op::BackpropOp;
use candle_core::{CudaStorage, Layout, Result, Shape, Storage, Tensor};
use cudarc::driver::{CudaSlice, DevicePtr};

use super::element::{Element, OnGpu, choose};
use super::gpu::{Gpu, GpuBasis, GpuLayer};
use crate::batch::PaddedBatch;
use crate::cuda::unfused::scratch;
use crate::cuda::{
    Address, DenseArrays, DenseShape, DenseVjpArrays, EdgeGeometryArrays, EdgeGeometryVjpArrays, EdgeList, GateArrays,
    Launch, Launcher, MessageArrays, MessageGradArrays, MessageShape, RadialBasisArrays, Step,
};
use crate::ops::choice::{Pattern, Size, Variant};
use crate::ops::cost_model::CostModel;
use crate::ops::dense::{Activation, Linear};
use crate::ops::radial_basis::RadialBasis;
use crate::settings::Precision;

/// A contiguous tensor on the GPU, held while kernels that read it are queued; what is freed later is freed behind them.
struct Held {
    _tensor: Tensor,
    address: Address,
}

fn address_in<U: OnGpu>(storage: &CudaStorage, layout: &Layout) -> Result<Address> {
    let slice = storage.as_cuda_slice::<U>()?;
    let Some((start, _)) = layout.contiguous_offsets() else {
        candle_core::bail!("custom operations need contiguous arguments, got strides {:?}", layout.stride())
    };
    let stream = storage.device().cuda_stream();
    Ok(slice.device_ptr(&stream).0 + (start * size_of::<U>()) as u64)
}

fn hold<U: OnGpu>(tensor: &Tensor) -> Result<Held> {
    let tensor = tensor.contiguous()?;
    let address = {
        let (storage, layout) = tensor.storage_and_layout();
        match &*storage {
            Storage::Cuda(storage) => address_in::<U>(storage, layout)?,
            _ => candle_core::bail!("a tensor of a batch on the GPU is on the processor"),
        }
    };
    Ok(Held { _tensor: tensor, address })
}

/// A layer's shape and activation for `n_rows` rows. The slope is what the forward saves.
fn dense_shape<T>(layer: &Linear<T>, activation: Activation, n_rows: usize) -> DenseShape {
    DenseShape {
        n_rows: n_rows as u32,
        n_in: layer.n_in as u32,
        n_out: layer.n_out as u32,
        before: Activation::Identity,
        activation,
        save_slope: true,
    }
}

/// A batch's arrays on a GPU, and the operations on them. [`PaddedBatch`] counts rows and edges in 32 bits.
pub struct GpuBatch<T> {
    gpu: Arc<Gpu<T>>,
    launcher: Launcher,
    cost_model: Arc<CostModel>,
    n_rows: usize,
    n_edges: usize,
    n_structures: usize,
    receivers: CudaSlice<u32>,
    senders: CudaSlice<u32>,
    edge_ptr: CudaSlice<u32>,
    reverse_edge: CudaSlice<u32>,
    structure_of: CudaSlice<u32>,
    /// `[n_structures, 2]`.
    atoms_of: CudaSlice<u32>,
    references: CudaSlice<f64>,
    /// `[n_edges, 3]`; none where no structure is periodic.
    offsets: Option<CudaSlice<f64>>,
}

type Forward = Result<(CudaStorage, Shape)>;

impl<T: Element> GpuBatch<T> {
    /// Copies a batch with at least one edge to the GPU; `cost_model` chooses among its kernels and the chains of
    /// elementary ones.
    ///
    /// # Errors
    /// What the tensor library reports.
    pub fn new(gpu: Arc<Gpu<T>>, batch: &PaddedBatch, cost_model: &Arc<CostModel>) -> Result<Self> {
        let mut launcher = gpu.launcher.clone();
        launcher.dense_sizes.cost_model = Some(cost_model.clone());
        let atoms_of: Vec<u32> = batch.atoms_of.iter().flat_map(|rows| [rows.start as u32, rows.end as u32]).collect();
        let offsets = batch.offsets.as_flattened();
        let offsets = if offsets.iter().any(|&x| x != 0.0) { Some(gpu.upload(offsets)?) } else { None };
        Ok(GpuBatch {
            n_rows: batch.n_rows(),
            n_edges: batch.topology.n_edges(),
            n_structures: batch.n_structures(),
            receivers: gpu.upload(&batch.topology.receivers)?,
            senders: gpu.upload(&batch.topology.senders)?,
            edge_ptr: gpu.upload(&batch.topology.edge_ptr)?,
            reverse_edge: gpu.upload(&batch.topology.reverse_edge)?,
            structure_of: gpu.upload(&batch.structure_of)?,
            atoms_of: gpu.upload(&atoms_of)?,
            references: gpu.upload(&batch.references)?,
            offsets,
            launcher,
            cost_model: cost_model.clone(),
            gpu,
        })
    }

    /// Which variant of an operation runs.
    fn choose(&self, pattern: Pattern, rows: usize, width: usize) -> Variant {
        choose(&self.cost_model, pattern, Size { rows, width })
    }

    /// Queues the fused launch, or the chain that is made with the address of `n_scratch` elements of U.
    ///
    /// # Safety
    /// The arrays of both are on this GPU, with the shapes that the kernels document.
    unsafe fn either<U: OnGpu>(
        &self,
        variant: Variant,
        fused: impl FnOnce() -> crate::Result<Launch>,
        n_scratch: usize,
        unfused: impl FnOnce(Address) -> Vec<Step>,
    ) -> Result<()> {
        match variant {
            // SAFETY: the caller's.
            Variant::Fused => unsafe { self.gpu.launch(&fused().map_err(super::into_candle)?) },
            Variant::Unfused => {
                // The chain writes what it reads of it, and it is freed behind the chain.
                let scratch = self.gpu.uninitialised::<U>(n_scratch)?;
                // SAFETY: the caller's.
                unsafe { self.gpu.steps(&unfused(self.gpu.address(&scratch))) }
            }
        }
    }

    fn finish<U: OnGpu>(&self, array: CudaSlice<U>, shape: impl Into<Shape>) -> Forward {
        Ok((U::wrap_cuda_slice(array, self.gpu.candle.clone()), shape.into()))
    }

    /// A cotangent of `like`: zeros that a VJP then adds to.
    fn zeros<U: OnGpu>(&self, like: &Tensor) -> Result<(Address, CudaSlice<U>)> {
        let array = self.gpu.candle.alloc_zeros::<U>(like.elem_count())?;
        Ok((self.gpu.address(&array), array))
    }

    fn tensor<U: OnGpu>(&self, array: CudaSlice<U>, like: &Tensor) -> Result<Option<Tensor>> {
        let storage = Storage::Cuda(U::wrap_cuda_slice(array, self.gpu.candle.clone()));
        Ok(Some(Tensor::from_storage(storage, like.shape(), BackpropOp::none(), false)))
    }

    /// In f64 whatever the network's precision, as on the processor.
    fn geometry_launcher(&self) -> Launcher {
        Launcher { precision: Precision::F64, ..self.launcher.clone() }
    }

    pub fn edge_geometry(
        &self,
        epsilon: f64,
        positions: (&CudaStorage, &Layout),
        strain: (&CudaStorage, &Layout),
    ) -> Forward {
        let gpu = &self.gpu;
        let geometry = gpu.uninitialised::<f64>(4 * self.n_edges)?;
        let arrays = EdgeGeometryArrays {
            receivers: gpu.address(&self.receivers),
            senders: gpu.address(&self.senders),
            structure_of: gpu.address(&self.structure_of),
            positions: address_in::<f64>(positions.0, positions.1)?,
            offsets: self.offsets.as_ref().map_or(0, |offsets| gpu.address(offsets)),
            strain: address_in::<f64>(strain.0, strain.1)?,
            geometry: gpu.address(&geometry),
        };
        let (variant, launcher) = (self.choose(Pattern::EdgeGeometry, self.n_edges, 1), self.geometry_launcher());
        let n_edges = self.n_edges as u32;
        let fused = || Ok(launcher.edge_geometry(n_edges, epsilon, &arrays));
        let unfused = |scratch| launcher.unfused_edge_geometry(n_edges, epsilon, &arrays, scratch);
        // SAFETY: arrays of this batch; candle checked the types.
        unsafe { self.either::<f64>(variant, fused, scratch::edge_geometry(self.n_edges), unfused)? };
        self.finish(geometry, (self.n_edges, 4))
    }

    pub fn edge_geometry_vjp(
        &self,
        epsilon: f64,
        [positions, strain, geometry, grad]: [&Tensor; 4],
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let gpu = &self.gpu;
        let (geometry, grad) = (hold::<f64>(geometry)?, hold::<f64>(grad)?);
        let virials = gpu.uninitialised::<f64>(9 * self.n_rows)?;
        let (grad_positions, positions_out) = self.zeros::<f64>(positions)?;
        let (grad_strain, strain_out) = self.zeros::<f64>(strain)?;
        let arrays = EdgeGeometryVjpArrays {
            edge_ptr: gpu.address(&self.edge_ptr),
            reverse_edge: gpu.address(&self.reverse_edge),
            geometry: geometry.address,
            grad_geometry: grad.address,
            grad_positions,
            virials: gpu.address(&virials),
        };
        let (variant, launcher) = (self.choose(Pattern::EdgeGeometry, self.n_edges, 1), self.geometry_launcher());
        let (n_rows, n_edges) = (self.n_rows as u32, self.n_edges as u32);
        let n_scratch = scratch::edge_geometry_vjp(self.n_rows, self.n_edges);
        let fused = || Ok(launcher.edge_geometry_vjp(n_rows, epsilon, &arrays));
        let unfused = |scratch| launcher.unfused_edge_geometry_vjp(n_rows, n_edges, epsilon, &arrays, scratch);
        let (n_structures, atoms_of) = (self.n_structures as u32, gpu.address(&self.atoms_of));
        // SAFETY: arrays of this batch; candle checked the types. The first call writes all virials.
        unsafe {
            self.either::<f64>(variant, fused, n_scratch, unfused)?;
            gpu.launch(&launcher.edge_geometry_strain_vjp(n_structures, atoms_of, arrays.virials, grad_strain))?;
        }
        Ok((self.tensor(positions_out, positions)?, self.tensor(strain_out, strain)?))
    }

    fn radial_basis_arrays(&self, basis: &GpuBasis<T>, distances: Address) -> RadialBasisArrays {
        let widths = basis.widths.as_ref().map_or(0, |widths| self.gpu.address(widths));
        RadialBasisArrays { first: self.gpu.address(&basis.first), widths, distances, stride: 1 }
    }

    pub fn radial_basis(
        &self,
        functions: &RadialBasis,
        cutoff: f64,
        (storage, layout): (&CudaStorage, &Layout),
    ) -> Forward {
        let gpu = &self.gpu;
        let (n, width) = (layout.shape().elem_count(), functions.len() + 1);
        let on_gpu = gpu.basis(functions)?;
        let out = gpu.uninitialised::<T>(n * width)?;
        let arrays = self.radial_basis_arrays(&on_gpu, address_in::<T>(storage, layout)?);
        let (variant, launcher) = (self.choose(Pattern::RadialBasis, n, functions.len()), &self.launcher);
        let (n_edges, n_rbf, basis) = (n as u32, functions.len() as u32, gpu.address(&out));
        let fused = || Ok(launcher.radial_basis(n_edges, n_rbf, cutoff, &arrays, basis));
        let unfused = |scratch| launcher.unfused_radial_basis(n_edges, n_rbf, cutoff, &arrays, basis, scratch);
        // SAFETY: `n` distances, rows of `width` for them.
        unsafe { self.either::<T>(variant, fused, scratch::radial_basis(n, functions.len()), unfused)? };
        self.finish(out, (n, width))
    }

    pub fn radial_basis_vjp(
        &self,
        functions: &RadialBasis,
        cutoff: f64,
        arg: &Tensor,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let gpu = &self.gpu;
        let (distances, grad) = (hold::<T>(arg)?, hold::<T>(grad)?);
        let on_gpu = gpu.basis(functions)?;
        let (out, array) = self.zeros::<T>(arg)?;
        let arrays = self.radial_basis_arrays(&on_gpu, distances.address);
        let (n_edges, n_rbf, grad) = (arg.elem_count() as u32, functions.len() as u32, grad.address);
        let (n_scratch, launcher) = (scratch::radial_basis_vjp(arg.elem_count(), functions.len()), &self.launcher);
        let fused = || Ok(launcher.radial_basis_vjp(n_edges, n_rbf, cutoff, &arrays, grad, out));
        let unfused = |room| launcher.unfused_radial_basis_vjp(n_edges, n_rbf, cutoff, &arrays, grad, out, room);
        let variant = self.choose(Pattern::RadialBasis, arg.elem_count(), functions.len());
        // SAFETY: as in the forward.
        unsafe { self.either::<T>(variant, fused, n_scratch, unfused)? };
        self.tensor(array, arg)
    }

    /// The result, and the activation's slope where it is to be kept.
    pub fn dense(
        &self,
        layer: &Arc<Linear<T>>,
        activation: Activation,
        keep: bool,
        (storage, layout): (&CudaStorage, &Layout),
    ) -> Result<(CudaStorage, Shape, Option<CudaSlice<T>>)> {
        let gpu = &self.gpu;
        let n_rows = layout.shape().elem_count() / layer.n_in;
        let weights = gpu.layer(layer)?;
        let y = gpu.uninitialised::<T>(n_rows * layer.n_out)?;
        let keep = keep && activation != Activation::Identity;
        let saved = if keep { Some(gpu.uninitialised::<T>(n_rows * layer.n_out)?) } else { None };
        let arrays = DenseArrays {
            x: address_in::<T>(storage, layout)?,
            weight: gpu.address(&weights.weight),
            bias: weights.bias.as_ref().map_or(0, |bias| gpu.address(bias)),
            residual: 0,
            y: gpu.address(&y),
            saved: saved.as_ref().map_or(0, |saved| gpu.address(saved)),
        };
        // SAFETY: `n_rows` rows of the layer's lengths.
        unsafe { gpu.steps(&self.launcher.dense_steps(&dense_shape(layer, activation, n_rows), &arrays))? };
        let mut dims = layout.dims().to_vec();
        if let Some(last) = dims.last_mut() {
            *last = layer.n_out;
        }
        let (storage, shape) = self.finish(y, dims)?;
        Ok((storage, shape, saved))
    }

    pub fn dense_vjp(
        &self,
        layer: &Arc<Linear<T>>,
        activation: Activation,
        saved: Option<&CudaSlice<T>>,
        arg: &Tensor,
        grad: &Tensor,
    ) -> Result<Option<Tensor>> {
        let gpu = &self.gpu;
        let grad = hold::<T>(grad)?;
        let weights = gpu.layer(layer)?;
        let (grad_x, out) = self.zeros::<T>(arg)?;
        let arrays = DenseVjpArrays {
            grad_y: grad.address,
            saved: saved.map_or(0, |saved| gpu.address(saved)),
            weight: gpu.address(&weights.weight),
            // Read only behind an activation of the argument, which these layers do not have.
            x: 0,
            grad_x,
            grad_residual: 0,
        };
        let n_rows = arg.elem_count() / layer.n_in;
        let shape = dense_shape(layer, activation, n_rows);
        let behind_activation = self.launcher.dense_vjp_uses_library(&shape) && saved.is_some();
        let scratch = if behind_activation { Some(gpu.uninitialised::<T>(n_rows * layer.n_out)?) } else { None };
        let scratch_at = scratch.as_ref().map_or(0, |scratch| gpu.address(scratch));
        // SAFETY: as in the forward; the first step writes the scratch array.
        unsafe { gpu.steps(&self.launcher.dense_vjp_steps(&shape, &arrays, scratch_at))? };
        self.tensor(out, arg)
    }

    fn message_inputs(&self, filter: &GpuLayer<T>, [nodes, edges, geometry]: [Address; 3]) -> MessageArrays {
        let gpu = &self.gpu;
        MessageArrays {
            edge_ptr: gpu.address(&self.edge_ptr),
            senders: gpu.address(&self.senders),
            reverse_edge: gpu.address(&self.reverse_edge),
            nodes,
            edges,
            geometry,
            weight: gpu.address(&filter.weight),
            bias: filter.bias.as_ref().map_or(0, |bias| gpu.address(bias)),
        }
    }

    fn edge_list(&self) -> EdgeList {
        EdgeList { n_edges: self.n_edges as u32, receivers: self.gpu.address(&self.receivers) }
    }

    fn message_shape(&self, n_features: usize, filter: &Linear<T>) -> MessageShape {
        let n_atoms = self.n_rows as u32;
        MessageShape { n_atoms, n_features: n_features as u32, n_edge_features: filter.n_in as u32 }
    }

    pub fn message(&self, n_features: usize, filter: &Arc<Linear<T>>, inputs: [(&CudaStorage, &Layout); 3]) -> Forward {
        let gpu = &self.gpu;
        let weights = gpu.layer(filter)?;
        let [nodes, edges, geometry] = inputs.map(|(storage, layout)| address_in::<T>(storage, layout));
        let arrays = self.message_inputs(&weights, [nodes?, edges?, geometry?]);
        let width = 4 * n_features;
        let sums = gpu.uninitialised::<T>(self.n_rows * width)?;
        let shape = self.message_shape(n_features, filter);
        let (list, launcher, out) = (self.edge_list(), &self.launcher, gpu.address(&sums));
        let fused = || launcher.message(&shape, &arrays, out);
        let unfused = |scratch| launcher.unfused_message(&shape, &list, &arrays, out, scratch);
        let variant = self.choose(Pattern::Message, self.n_edges, n_features);
        let n_scratch = scratch::message(self.n_rows, self.n_edges, n_features);
        // SAFETY: arrays of this batch; the engine made the tensors with the shapes of the CPU operation.
        unsafe { self.either::<T>(variant, fused, n_scratch, unfused)? };
        self.finish(sums, (self.n_rows, width))
    }

    pub fn message_vjp(
        &self,
        n_features: usize,
        filter: &Arc<Linear<T>>,
        inputs: [&Tensor; 3],
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gpu = &self.gpu;
        let weights = gpu.layer(filter)?;
        let [nodes, edges, geometry] = inputs;
        let held = [hold::<T>(nodes)?, hold::<T>(edges)?, hold::<T>(geometry)?];
        let grad = hold::<T>(grad)?;
        let arrays = self.message_inputs(&weights, [held[0].address, held[1].address, held[2].address]);
        let (a, b, c) = (self.zeros::<T>(nodes)?, self.zeros::<T>(edges)?, self.zeros::<T>(geometry)?);
        let grads = MessageGradArrays { nodes: a.0, edges: b.0, geometry: c.0 };
        let shape = self.message_shape(n_features, filter);
        let (list, launcher, grad) = (self.edge_list(), &self.launcher, grad.address);
        let fused = || launcher.message_vjp(&shape, &arrays, grad, &grads);
        let unfused = |scratch| launcher.unfused_message_vjp(&shape, &list, &arrays, grad, &grads, scratch);
        let variant = self.choose(Pattern::Message, self.n_edges, n_features);
        let n_scratch = scratch::message_vjp(self.n_rows, self.n_edges, n_features);
        // SAFETY: as in the forward.
        unsafe { self.either::<T>(variant, fused, n_scratch, unfused)? };
        Ok((self.tensor(a.1, nodes)?, self.tensor(b.1, edges)?, self.tensor(c.1, geometry)?))
    }

    pub fn update_invariants(
        &self,
        n_features: usize,
        epsilon: f64,
        (storage, layout): (&CudaStorage, &Layout),
    ) -> Forward {
        let gpu = &self.gpu;
        let n_rows = layout.shape().elem_count() / (6 * n_features);
        let out = gpu.uninitialised::<T>(n_rows * 2 * n_features)?;
        let (mixed, invariants) = (address_in::<T>(storage, layout)?, gpu.address(&out));
        let (rows, n, launcher) = (n_rows as u32, n_features as u32, &self.launcher);
        let fused = || Ok(launcher.update_invariants(rows, n, epsilon, mixed, invariants));
        let unfused = |scratch| launcher.unfused_update_invariants(rows, n, epsilon, mixed, invariants, scratch);
        let variant = self.choose(Pattern::Update, n_rows, n_features);
        // SAFETY: `n_rows` rows.
        unsafe { self.either::<T>(variant, fused, scratch::update_invariants(n_rows, n_features), unfused)? };
        self.finish(out, (n_rows, 2 * n_features))
    }

    pub fn update_invariants_vjp(&self, n_features: usize, [arg, res, grad]: [&Tensor; 3]) -> Result<Option<Tensor>> {
        let n_rows = arg.elem_count() / (6 * n_features);
        let (mixed, invariants, grad) = (hold::<T>(arg)?, hold::<T>(res)?, hold::<T>(grad)?);
        let (out, array) = self.zeros::<T>(arg)?;
        let (rows, n, launcher) = (n_rows as u32, n_features as u32, &self.launcher);
        let [x, norms, grad] = [mixed.address, invariants.address, grad.address];
        let fused = || Ok(launcher.update_invariants_vjp(rows, n, x, norms, grad, out));
        let unfused = |scratch| launcher.unfused_update_invariants_vjp(rows, n, x, norms, grad, out, scratch);
        let variant = self.choose(Pattern::Update, n_rows, n_features);
        // SAFETY: `n_rows` rows.
        unsafe { self.either::<T>(variant, fused, scratch::update_invariants_vjp(n_rows, n_features), unfused)? };
        self.tensor(array, arg)
    }

    pub fn update_gate(&self, n_features: usize, inputs: [(&CudaStorage, &Layout); 3]) -> Forward {
        let gpu = &self.gpu;
        let n_rows = inputs[0].1.shape().elem_count() / (3 * n_features);
        let [gates, mixed, invariants] = inputs.map(|(storage, layout)| address_in::<T>(storage, layout));
        let arrays = GateArrays { gates: gates?, mixed: mixed?, invariants: invariants? };
        let change = gpu.uninitialised::<T>(n_rows * 4 * n_features)?;
        let (rows, n, launcher, out) = (n_rows as u32, n_features as u32, &self.launcher, gpu.address(&change));
        let fused = || Ok(launcher.update_gate(rows, n, &arrays, out));
        let unfused = |scratch| launcher.unfused_update_gate(rows, n, &arrays, out, scratch);
        let variant = self.choose(Pattern::Update, n_rows, n_features);
        // SAFETY: `n_rows` rows.
        unsafe { self.either::<T>(variant, fused, scratch::update_gate(n_rows, n_features), unfused)? };
        self.finish(change, (n_rows, 4 * n_features))
    }

    pub fn update_gate_vjp(
        &self,
        n_features: usize,
        inputs: [&Tensor; 3],
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let [gates, mixed, invariants] = inputs;
        let held = [hold::<T>(gates)?, hold::<T>(mixed)?, hold::<T>(invariants)?];
        let grad = hold::<T>(grad)?;
        let arrays = GateArrays { gates: held[0].address, mixed: held[1].address, invariants: held[2].address };
        let (a, b, c) = (self.zeros::<T>(gates)?, self.zeros::<T>(mixed)?, self.zeros::<T>(invariants)?);
        let grads = GateArrays { gates: a.0, mixed: b.0, invariants: c.0 };
        let n_rows = gates.elem_count() / (3 * n_features);
        let (rows, n, launcher, grad) = (n_rows as u32, n_features as u32, &self.launcher, grad.address);
        let fused = || Ok(launcher.update_gate_vjp(rows, n, &arrays, grad, &grads));
        let unfused = |scratch| launcher.unfused_update_gate_vjp(rows, n, &arrays, grad, &grads, scratch);
        let variant = self.choose(Pattern::Update, n_rows, n_features);
        // SAFETY: as in the forward.
        unsafe { self.either::<T>(variant, fused, scratch::update_gate_vjp(n_rows, n_features), unfused)? };
        Ok((self.tensor(a.1, gates)?, self.tensor(b.1, mixed)?, self.tensor(c.1, invariants)?))
    }

    pub fn readout(&self, energy_scale: f64, (storage, layout): (&CudaStorage, &Layout)) -> Forward {
        let gpu = &self.gpu;
        let energies = gpu.uninitialised::<f64>(self.n_structures)?;
        let (references, atoms_of) = (gpu.address(&self.references), gpu.address(&self.atoms_of));
        let (outputs, n) = (address_in::<T>(storage, layout)?, self.n_structures as u32);
        let launch = self.launcher.readout(n, energy_scale, outputs, references, atoms_of, gpu.address(&energies));
        // SAFETY: arrays of this batch.
        unsafe { gpu.launch(&launch)? };
        self.finish(energies, self.n_structures)
    }

    pub fn readout_vjp(&self, energy_scale: f64, arg: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let gpu = &self.gpu;
        let grad = hold::<f64>(grad)?;
        let (out, array) = self.zeros::<T>(arg)?;
        let (n, atoms_of) = (self.n_structures as u32, gpu.address(&self.atoms_of));
        // SAFETY: arrays of this batch.
        unsafe { gpu.launch(&self.launcher.readout_vjp(n, energy_scale, atoms_of, grad.address, out))? };
        self.tensor(array, arg)
    }
}
