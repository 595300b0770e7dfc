//! Whether a pool that was read can be calculated with.
//!
//! Whoever can write to the register can write any numbers. So each number, time and rate in a value is looked at before it is used: none is
//! so large that a sum overflows, and none is not a number. Fields that are added later are looked at too.

use std::fmt;

use serde::{
    Serialize,
    ser::{
        self, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
        SerializeTupleStruct, SerializeTupleVariant,
    },
};

/// No count is larger. A value of 256 KiB has less than 2^17 of them, so the sum of all is less than 2^61; and at a thousand changes a second a
/// count of changes takes five hundred years.
pub(super) const MOST: u64 = 1 << 44;

/// In seconds: some ten thousand years.
const LATEST: u64 = 1 << 40;

/// Rates and virtual times.
const FASTEST: f64 = 1e18;

/// The clock's offset, in nanoseconds: all that two clocks may differ.
const FURTHEST: i128 = 1 << 70;

/// A number that no pool has.
#[derive(Debug)]
pub(super) struct Implausible;

impl fmt::Display for Implausible {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number that no pool has")
    }
}

impl std::error::Error for Implausible {}

impl ser::Error for Implausible {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Implausible
    }
}

/// # Errors
/// If a number in it is out of bounds.
pub(super) fn check(value: &impl Serialize) -> Result<(), Implausible> {
    value.serialize(Check { most: MOST })
}

/// Looks at each number where it would be written.
#[derive(Clone, Copy)]
struct Check {
    most: u64,
}

fn so(is_so: bool) -> Result<(), Implausible> {
    is_so.then_some(()).ok_or(Implausible)
}

impl ser::Serializer for Check {
    type Ok = ();
    type Error = Implausible;
    type SerializeSeq = Self;
    type SerializeTuple = Self;
    type SerializeTupleStruct = Self;
    type SerializeTupleVariant = Self;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Self;

    fn serialize_u64(self, value: u64) -> Result<(), Implausible> {
        so(value <= self.most)
    }

    fn serialize_i128(self, value: i128) -> Result<(), Implausible> {
        so(value.abs_diff(0) <= FURTHEST.abs_diff(0))
    }

    fn serialize_f64(self, value: f64) -> Result<(), Implausible> {
        so(value.abs() <= FASTEST)
    }

    fn serialize_bool(self, _: bool) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_u8(self, _: u8) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_u16(self, _: u16) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_u32(self, _: u32) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_str(self, _: &str) -> Result<(), Implausible> {
        Ok(())
    }

    // No pool has any of these.

    fn serialize_i8(self, _: i8) -> Result<(), Implausible> {
        Err(Implausible)
    }

    fn serialize_i16(self, _: i16) -> Result<(), Implausible> {
        Err(Implausible)
    }

    fn serialize_i32(self, _: i32) -> Result<(), Implausible> {
        Err(Implausible)
    }

    fn serialize_i64(self, _: i64) -> Result<(), Implausible> {
        Err(Implausible)
    }

    fn serialize_f32(self, _: f32) -> Result<(), Implausible> {
        Err(Implausible)
    }

    fn serialize_char(self, _: char) -> Result<(), Implausible> {
        Err(Implausible)
    }

    fn serialize_bytes(self, _: &[u8]) -> Result<(), Implausible> {
        Err(Implausible)
    }

    fn serialize_none(self) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_some<T: ?Sized + Serialize>(self, value: &T) -> Result<(), Implausible> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
    ) -> Result<(), Implausible> {
        Ok(())
    }

    fn serialize_newtype_struct<T: ?Sized + Serialize>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), Implausible> {
        match name {
            // It is random, and nothing is calculated with it.
            "ReplicaId" => Ok(()),
            _ => value.serialize(self),
        }
    }

    fn serialize_newtype_variant<T: ?Sized + Serialize>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<(), Implausible> {
        value.serialize(self)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self, Implausible> {
        Ok(self)
    }

    fn serialize_tuple(self, _: usize) -> Result<Self, Implausible> {
        Ok(self)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self, Implausible> {
        Ok(self)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Implausible> {
        Ok(self)
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, Implausible> {
        Ok(self)
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Self, Implausible> {
        let most = match name {
            "Duration" => LATEST,
            // The times of the former are in nanoseconds, and what calculates with them saturates. The latter is a hash.
            "Limits" | "OperationId" => u64::MAX,
            _ => self.most,
        };
        Ok(Check { most })
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self, Implausible> {
        Ok(self)
    }
}

macro_rules! parts {
    ($($part:ident $method:ident),*) => {
        $(impl $part for Check {
            type Ok = ();
            type Error = Implausible;

            fn $method<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Implausible> {
                value.serialize(*self)
            }

            fn end(self) -> Result<(), Implausible> {
                Ok(())
            }
        })*
    };
}

parts!(
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field
);

macro_rules! fields {
    ($($part:ident),*) => {
        $(impl $part for Check {
            type Ok = ();
            type Error = Implausible;

            fn serialize_field<T: ?Sized + Serialize>(
                &mut self,
                _: &'static str,
                value: &T,
            ) -> Result<(), Implausible> {
                value.serialize(*self)
            }

            fn end(self) -> Result<(), Implausible> {
                Ok(())
            }
        })*
    };
}

fields!(SerializeStruct, SerializeStructVariant);

impl SerializeMap for Check {
    type Ok = ();
    type Error = Implausible;

    fn serialize_key<T: ?Sized + Serialize>(&mut self, key: &T) -> Result<(), Implausible> {
        key.serialize(*self)
    }

    fn serialize_value<T: ?Sized + Serialize>(&mut self, value: &T) -> Result<(), Implausible> {
        value.serialize(*self)
    }

    fn end(self) -> Result<(), Implausible> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::{super::ReplicaId, *};

    #[test]
    fn numbers_are_looked_at_wherever_they_stand() {
        #[derive(Serialize)]
        struct Part {
            count: u64,
            time: Duration,
            rate: f64,
            who: BTreeMap<ReplicaId, Option<(u64, i128)>>,
        }
        let part = |count, time, rate, more| {
            let who = BTreeMap::from([(ReplicaId(u64::MAX), Some(more))]);
            let time = Duration::from_secs(time);
            check(&[Part {
                count,
                time,
                rate,
                who,
            }])
            .is_ok()
        };
        assert!(part(MOST, LATEST, -1e18, (0, -FURTHEST)));
        for wrong in [
            part(MOST + 1, 0, 0.0, (0, 0)),
            part(0, LATEST + 1, 0.0, (0, 0)),
            part(0, 0, f64::NAN, (0, 0)),
            part(0, 0, f64::NEG_INFINITY, (0, 0)),
            part(0, 0, 0.0, (MOST + 1, 0)),
            part(0, 0, 0.0, (0, i128::MIN)),
        ] {
            assert!(!wrong);
        }
    }
}
