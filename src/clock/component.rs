//! The names of what is timed: components, halves of an evaluation, layers.

/// What work belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Component {
    /// Checking a structure and finding its neighbours.
    NeighborSearch,
    /// Putting structures together, and making room for their results.
    Batch,
    /// Copies between the host and a GPU: a batch there, its results back. Weights are there already.
    Transfers,
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

    /// Name in reports.
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

    /// Half of the evaluation that it belongs to.
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
