//! What a sandbox is made of: vCPUs, memory and disk, in types that carry their unit and cannot be out of range.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A wish for a shape that no sandbox can have. The text names the limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be between {min} and {max}, or 0 for the default of {default}; got {got}")]
pub struct InvalidShape {
    field: &'static str,
    min: u32,
    max: u32,
    default: u32,
    got: i64,
}

macro_rules! quantity {
    ($(#[$doc:meta])* $name:ident, $field:literal, $min:literal..=$max:literal, default $default:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "i64", into = "u32")]
        pub struct $name(u32);

        impl $name {
            /// The smallest that a sandbox can have.
            pub const MIN: u32 = $min;
            /// The largest that a sandbox can have.
            pub const MAX: u32 = $max;
            /// What a sandbox gets that asks for nothing.
            pub const DEFAULT: Self = Self($default);

            /// The plain number.
            pub fn get(self) -> u32 {
                self.0
            }
        }

        /// 0 means the default.
        impl TryFrom<i64> for $name {
            type Error = InvalidShape;

            fn try_from(got: i64) -> Result<Self, InvalidShape> {
                match u32::try_from(got) {
                    Ok(0) => Ok(Self::DEFAULT),
                    Ok(number @ $min..=$max) => Ok(Self(number)),
                    _ => Err(InvalidShape { field: $field, min: $min, max: $max, default: $default, got }),
                }
            }
        }

        impl From<$name> for u32 {
            fn from(quantity: $name) -> u32 {
                quantity.0
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::DEFAULT
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

quantity! {
    /// Virtual processors.
    VcpuCount, "vcpus", 1..=32, default 1
}

quantity! {
    /// Guest memory in MiB.
    MemoryMb, "memory_mb", 128..=65536, default 512
}

quantity! {
    /// The guest's root disk in MiB; the file on the host is sparse.
    DiskMb, "disk_mb", 256..=1048576, default 5120
}

/// vCPUs × memory × disk: what decides which baked image a sandbox can come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct Shape {
    /// Virtual processors.
    pub vcpus: VcpuCount,
    /// Guest memory.
    pub memory: MemoryMb,
    /// Root disk.
    pub disk: DiskMb,
}

/// A shape as a caller asks for it: unchecked numbers, 0 meaning the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShapeRequest {
    /// Virtual processors wanted.
    pub vcpus: i64,
    /// MiB of memory wanted.
    pub memory_mb: i64,
    /// MiB of disk wanted.
    pub disk_mb: i64,
}

impl TryFrom<ShapeRequest> for Shape {
    type Error = InvalidShape;

    fn try_from(request: ShapeRequest) -> Result<Self, InvalidShape> {
        Ok(Self {
            vcpus: request.vcpus.try_into()?,
            memory: request.memory_mb.try_into()?,
            disk: request.disk_mb.try_into()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_asked_for_is_the_default() {
        let shape = Shape::try_from(ShapeRequest::default()).unwrap();
        assert_eq!((shape.vcpus.get(), shape.memory.get(), shape.disk.get()), (1, 512, 5120));
    }

    #[test]
    fn both_ends_of_a_range_are_legal_and_the_next_number_is_not() {
        for legal in [1, 32] {
            assert_eq!(VcpuCount::try_from(legal).unwrap().get(), legal as u32);
        }
        for illegal in [-1, 33, i64::MAX, i64::MIN] {
            let error = VcpuCount::try_from(illegal).unwrap_err().to_string();
            assert!(error.contains("between 1 and 32") && error.contains(&illegal.to_string()), "{error}");
        }
        assert!(MemoryMb::try_from(127).is_err() && MemoryMb::try_from(65537).is_err());
    }
}
