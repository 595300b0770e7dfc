//! Closed sets of names: metric labels, fields of log lines, values in JSON and in the configuration.
//!
//! Each set is an enum with the names beside the variants. The code compares variants, and uses the text only for output.

/// An enum of [`label_enum!`], for code that works for any of them.
pub trait Label: Copy + 'static {
    /// Every variant.
    const ALL: &'static [Self];

    /// Its name in metrics, log lines, JSON and the configuration.
    fn label(self) -> &'static str;
}

/// Declares an enum with a name for each variant: `label()` returns the name, `ALL` has every variant, and JSON has the name.
macro_rules! label_enum {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $($(#[$of_variant:meta])* $variant:ident = $label:literal,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $($(#[$of_variant])* $variant,)+
        }

        impl $name {
            /// Every variant.
            $vis const ALL: &'static [$name] = &[$($name::$variant),+];

            /// The name in metrics, log lines and JSON.
            $vis const fn label(self) -> &'static str {
                match self {
                    $($name::$variant => $label,)+
                }
            }
        }

        impl $crate::label::Label for $name {
            const ALL: &'static [$name] = $name::ALL;

            fn label(self) -> &'static str {
                $name::label(self)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.label())
            }
        }
    };
}

pub(crate) use label_enum;

/// Asserts that an enum has exactly these names, in this order, because programs outside this crate read them.
#[cfg(test)]
macro_rules! assert_labels {
    ($name:ident: $($label:literal)+) => {
        let labels: Vec<_> = $name::ALL.iter().map(|one| one.label()).collect();
        assert_eq!(labels, [$($label),+], stringify!($name));
    };
}

#[cfg(test)]
pub(crate) use assert_labels;

#[cfg(test)]
mod tests {
    label_enum! {
        enum Light {
            Red = "stop",
            Green = "go",
        }
    }

    #[test]
    fn a_variant_is_its_name_in_json() {
        assert_labels!(Light: "stop" "go");
        let json = serde_json::json!({ "light": Light::Green });
        assert_eq!(json.to_string(), r#"{"light":"go"}"#);
        assert!(Light::Red < Light::Green);
    }
}
