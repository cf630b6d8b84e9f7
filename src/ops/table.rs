//! The arrays of an operation, told once.
//!
//! `operation!` turns a list of arrays into a struct of sizes and a struct with one entry for each array. Everything that must
//! know the arrays asks these: kernels take both structs as they are (in C++ they stand in `kernels/arrays.cuh`, which a test
//! writes), uploads and checks of lengths go through [`Operation::arrays`], bytes and examples through [`Operation::table`].

/// What an array is to its operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Says which edges, atoms and structures belong together.
    Index,
    /// Weights, and other numbers without a cotangent.
    Constant,
    /// An argument of the forward; its cotangent is the gradient of its name.
    Input,
    /// A result of the forward, overwritten. The VJP may read it.
    Output,
    /// The cotangent of an output, an argument of the VJP.
    Cotangent,
    /// The cotangent of an input; the VJP adds to it.
    Gradient,
    /// Room for the VJP, in any state.
    Room,
}

/// Type of an array's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// Indices.
    U32,
    /// The precision of the evaluation.
    Real,
    /// f64 whatever the precision.
    F64,
}

/// Which of the fused kernels use an array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// The forward.
    Forward,
    /// The VJP.
    Vjp,
    /// Both.
    Both,
    /// Neither: only the chain of elementary operations does.
    Chain,
}

/// One array of an operation at given sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Name, the same everywhere.
    pub name: &'static str,
    /// What it is to the operation.
    pub role: Role,
    /// Type of its elements.
    pub element: Element,
    /// Rows.
    pub rows: usize,
    /// Elements of a row.
    pub width: usize,
    /// Who uses it.
    pub used: Use,
    /// Whether it may be absent.
    pub optional: bool,
}

impl Array {
    /// Elements.
    pub fn len(&self) -> usize {
        self.rows * self.width
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes, with `real` bytes of a number in the precision of the evaluation.
    pub fn bytes(&self, real: usize) -> usize {
        self.len()
            * match self.element {
                Element::U32 => 4,
                Element::Real => real,
                Element::F64 => 8,
            }
    }
}

/// An operation at given sizes.
pub trait Operation: Copy {
    /// Its name, as in files, kernels and components of the profiler.
    const NAME: &'static str;

    /// Names of the two structs, the same in the kernels.
    const STRUCTS: [&'static str; 2];

    /// Names of the sizes, in order.
    const SIZES: &'static [&'static str];

    /// One `A` for each array: an address, a length, whatever stands for it. The default stands for an absent one.
    type Arrays<A: Copy + Default>: Copy + Default;

    /// Its sizes, in order.
    fn sizes(&self) -> Vec<u32>;

    /// Its arrays, in order.
    fn table(&self) -> Vec<Array>;

    /// Each array's, in order.
    fn in_order<A: Copy + Default>(arrays: &Self::Arrays<A>) -> Vec<A>;

    /// What `of` makes of each array.
    fn arrays<A: Copy + Default>(&self, of: impl FnMut(&Array) -> A) -> Self::Arrays<A>;
}

/// Bytes that the fused forward or VJP moves where it reads and writes each array once; what is added to is read and written.
/// `is_there` says which of the optional arrays there are.
pub fn bytes_moved<O: Operation>(sizes: &O, real: usize, vjp: bool, is_there: impl Fn(&str) -> bool) -> usize {
    let now = if vjp { Use::Vjp } else { Use::Forward };
    let moved = |a: &Array| (a.used == Use::Both || a.used == now) && (!a.optional || is_there(a.name));
    let passes = |a: &Array| if a.role == Role::Gradient { 2 } else { 1 };
    sizes.table().iter().filter(|a| moved(a)).map(|a| passes(a) * a.bytes(real)).sum()
}

/// Makes the sizes and the arrays of an operation from one list: role, type of the elements, name, rows and width, who uses
/// it, and whether it may be absent.
macro_rules! operation {
    (
        $name:literal:
        $(#[$sizes_doc:meta])*
        $Sizes:ident { $($(#[$size_doc:meta])* $size:ident),* $(,)? }
        $(#[$arrays_doc:meta])*
        $Arrays:ident {
            $($(#[$array_doc:meta])* $role:ident $element:ident $array:ident [$rows:expr; $width:expr] $used:ident
                $($absent:ident)?),*
            $(,)?
        }
    ) => {
        $(#[$sizes_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[repr(C)]
        pub struct $Sizes { $($(#[$size_doc])* pub $size: u32),* }

        $(#[$arrays_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
        #[repr(C)]
        pub struct $Arrays<A> {
            $(
                $(#[$array_doc])*
                #[doc = concat!(
                    stringify!($role), " `[", stringify!($rows), ", ", stringify!($width), "]` of ", stringify!($element),
                    $("; ", stringify!($absent),)? "."
                )]
                pub $array: A
            ),*
        }

        impl $crate::ops::table::Operation for $Sizes {
            const NAME: &'static str = $name;
            const STRUCTS: [&'static str; 2] = [stringify!($Sizes), stringify!($Arrays)];
            const SIZES: &'static [&'static str] = &[$(stringify!($size)),*];
            type Arrays<A: Copy + Default> = $Arrays<A>;

            fn sizes(&self) -> Vec<u32> {
                vec![$(self.$size),*]
            }

            #[allow(unused_variables)]
            fn table(&self) -> Vec<$crate::ops::table::Array> {
                $(let $size = self.$size as usize;)*
                vec![$($crate::ops::table::Array {
                    name: stringify!($array),
                    role: $crate::ops::table::Role::$role,
                    element: $crate::ops::table::Element::$element,
                    rows: $rows,
                    width: $width,
                    used: $crate::ops::table::Use::$used,
                    optional: false $(|| stringify!($absent) == "or_none")?,
                }),*]
            }

            fn in_order<A: Copy + Default>(arrays: &$Arrays<A>) -> Vec<A> {
                vec![$(arrays.$array),*]
            }

            fn arrays<A: Copy + Default>(&self, of: impl FnMut(&$crate::ops::table::Array) -> A) -> $Arrays<A> {
                let table = self.table();
                let mut made = table.iter().map(of);
                $(let $array = made.next().unwrap_or_default();)*
                $Arrays { $($array),* }
            }
        }
    };
}
pub(crate) use operation;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::message::MessageSizes;

    const SIZES: MessageSizes = MessageSizes { n_atoms: 3, n_edges: 4, n_features: 5, n_edge_features: 7 };

    #[test]
    fn table_of_arrays_says_lengths_in_order() {
        let table = SIZES.table();
        let of = |name: &str| *table.iter().find(|a| a.name == name).unwrap();
        assert_eq!((of("edge_ptr").len(), of("nodes").len(), of("sums").bytes(4)), (4, 90, 240));
        assert!(of("bias").optional && !of("weight").optional);
        let lengths: Vec<usize> = table.iter().map(Array::len).collect();
        assert_eq!(MessageSizes::in_order(&SIZES.arrays(Array::len)), lengths);
    }

    #[test]
    fn table_of_arrays_has_a_cotangent_for_each_input() {
        let table = SIZES.table();
        for input in table.iter().filter(|a| a.role == Role::Input) {
            let grad = table.iter().find(|a| a.name == format!("grad_{}", input.name)).unwrap();
            assert_eq!((grad.role, grad.len()), (Role::Gradient, input.len()));
        }
    }

    #[test]
    fn table_of_arrays_counts_bytes() {
        // edge_ptr 4, senders 4, nodes 90, edges 28, geometry 16, weight 105, sums 60.
        assert_eq!(bytes_moved(&SIZES, 4, false, |_| false), 4 * (4 + 4 + 90 + 28 + 16 + 105 + 60));
        // With reverse_edge 4; gradients twice, and a bias of 15.
        let vjp = 4 * (4 + 4 + 4 + 90 + 28 + 16 + 105 + 15 + 60) + 2 * 4 * (90 + 28 + 16);
        assert_eq!(bytes_moved(&SIZES, 4, true, |name| name == "bias"), vjp);
    }
}
