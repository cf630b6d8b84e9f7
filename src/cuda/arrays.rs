//! What `kernels/arrays.cuh` says: the sizes and arrays of every operation, in C++.

use crate::ops::dense::LayerSizes;
use crate::ops::edge_geometry::EdgeGeometrySizes;
use crate::ops::message::MessageSizes;
use crate::ops::radial_basis::RadialBasisSizes;
use crate::ops::readout::ReadoutSizes;
use crate::ops::table::{Array, Element, Operation, Role};
use crate::ops::update::{GateSizes, InvariantsSizes};

/// The text of the header, from the tables of [`crate::ops`].
pub fn header() -> String {
    let mut out = String::from(
        "// Sizes and arrays of the operations, as kernels take them. Written from the tables in src/ops by\n\
         // `MLFF_WRITE=1 cargo test header_of_arrays`: change them there. An array that is absent is null.\n\
         #pragma once\n",
    );
    out += &of(&EdgeGeometrySizes::default());
    out += &of(&RadialBasisSizes::default());
    out += &of(&LayerSizes::default());
    out += &of(&MessageSizes::default());
    out += &of(&InvariantsSizes::default());
    out += &of(&GateSizes::default());
    out += &of(&ReadoutSizes::default());
    out
}

fn of<O: Operation>(operation: &O) -> String {
    let [sizes, arrays] = O::STRUCTS;
    let field = |array: &Array| {
        let element = match array.element {
            Element::U32 => "unsigned int",
            Element::Real => "T",
            Element::F64 => "double",
        };
        let kind = match array.role {
            Role::Index => format!("const {element}* "),
            Role::Constant | Role::Input | Role::Cotangent => format!("const {element}* __restrict__ "),
            Role::Output | Role::Gradient | Role::Room => format!("{element}* "),
        };
        format!("    {kind}{};\n", array.name)
    };
    let fields: String = operation.table().iter().map(field).collect();
    format!(
        "\n// {}\nstruct {sizes} {{\n    unsigned int {};\n}};\ntemplate <typename T>\nstruct {arrays} {{\n{fields}}};\n",
        O::NAME,
        O::SIZES.join(", ")
    )
}

#[cfg(test)]
mod tests {
    /// `MLFF_WRITE=1` writes the file anew.
    #[test]
    fn header_of_arrays_is_what_the_tables_say() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/arrays.cuh");
        if std::env::var_os("MLFF_WRITE").is_some() {
            std::fs::write(&path, super::header()).unwrap();
        }
        let written = std::fs::read_to_string(&path).unwrap();
        assert!(written == super::header(), "kernels/arrays.cuh is not what src/ops says: MLFF_WRITE=1 writes it anew");
    }
}
