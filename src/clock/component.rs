//! The names of what is timed: components, halves of an evaluation, layers.

/// Parts of an evaluation whose time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Component {
    /// Checks of a structure and the search for its neighbours.
    NeighborSearch,
    /// Putting structures together into a batch, and making room for results.
    Batch,
    /// Copies between the host and a GPU: the batch to the GPU, the results back. Weights are on the GPU already.
    Transfers,
    /// Distances and directions of edges.
    EdgeGeometry,
    /// Radial basis functions and cutoff function.
    RadialBasis,
    /// Interaction context: the dense layers that prepare the features of atoms for a message.
    Context,
    /// Filters of a message: functions of the distance, as many as features.
    Filters,
    /// Message: each atom sums over what its neighbours send.
    Message,
    /// Update of each atom's features by the atom itself.
    Update,
    /// Readout: energies from the features of atoms.
    Readout,
    /// Batched autograd: other tensor operations, by candle.
    TensorOperations,
    /// Backward of the readout.
    ReadoutVjp,
    /// Backward of an update.
    UpdateVjp,
    /// Backward of a message.
    MessageVjp,
    /// Backward of filters, including filters that are computed again.
    FiltersVjp,
    /// Backward of an interaction context.
    ContextVjp,
    /// Backward of the radial basis.
    RadialBasisVjp,
    /// Backward of distances and directions: from edges to positions.
    EdgeGeometryVjp,
    /// Batched autograd: the rest of candle's backward pass.
    TensorOperationsVjp,
    /// Collecting the results of the engine.
    Results,
    /// Everything else; it is not reported as a component.
    Unattributed,
}

/// Part of an evaluation that a component belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// From positions to energies.
    Forward,
    /// From energies to forces.
    Backward,
    /// Before or after both.
    Other,
}

impl Component {
    /// All components, in the order of an evaluation.
    pub const ALL: [Component; 21] = [
        Component::NeighborSearch,
        Component::Batch,
        Component::Transfers,
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

    /// Name in profiles, such as `radial_basis`.
    pub fn name(self) -> &'static str {
        match self {
            Component::NeighborSearch => "neighbor_search",
            Component::Batch => "batch",
            Component::Transfers => "transfers",
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

    /// Part of an evaluation that it belongs to.
    pub fn phase(self) -> Phase {
        use Component as C;
        match self {
            C::NeighborSearch | C::Batch | C::Transfers | C::Results | C::Unattributed => Phase::Other,
            C::EdgeGeometry | C::RadialBasis | C::Context | C::Filters | C::Message | C::Update | C::Readout => {
                Phase::Forward
            }
            C::TensorOperations => Phase::Forward,
            _ => Phase::Backward,
        }
    }

    /// The component of its backward pass; itself if it has none.
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

/// A component, or one layer of a component that has layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Part {
    /// The component.
    pub component: Component,
    /// The layer, from 0; `None` for components without layers.
    pub layer: Option<u8>,
}

impl Part {
    /// A component in layer `l`. All layers from 255 on count as layer 255.
    #[inline(always)]
    pub fn layer(component: Component, l: usize) -> Part {
        Part { component, layer: Some(l.min(u8::MAX.into()) as u8) }
    }

    /// Name in profiles: `component` or `component.layer`.
    pub fn id(self) -> String {
        match self.layer {
            Some(l) => format!("{}.{l}", self.component.name()),
            None => self.component.name().into(),
        }
    }

    /// The backward pass of the same component in the same layer.
    pub fn vjp(self) -> Part {
        Part { component: self.component.vjp(), ..self }
    }

    pub(super) fn slot(self) -> usize {
        self.layer.map_or(0, |l| usize::from(l) + 1) * Component::ALL.len() + self.component as usize
    }
}

impl From<Component> for Part {
    #[inline(always)]
    fn from(component: Component) -> Part {
        Part { component, layer: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
