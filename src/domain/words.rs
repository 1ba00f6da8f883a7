//! Words of the public contract, as enums, and suggestions for misspelt words.

/// Implements how a type is written in JSON, which is the string of its `Display` (or of the named method, which is
/// faster), and how the `OpenAPI` document describes that string. The fields are those of [`utoipa::openapi::Object`].
macro_rules! json_string {
    ($name:ident $(($as_str:ident))? { $($field:ident: $value:expr),* }) => {
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                json_string!(@write self serializer $($as_str)?)
            }
        }

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::schema::Schema> {
                let mut schema = utoipa::openapi::Object::with_type(utoipa::openapi::schema::Type::String);
                $(schema.$field = Some($value);)*
                schema.into()
            }
        }

        impl utoipa::ToSchema for $name {}
    };
    (@write $self:ident $serializer:ident) => { $serializer.collect_str($self) };
    (@write $self:ident $serializer:ident $as_str:ident) => { $serializer.serialize_str($self.$as_str()) };
}

/// Declares an enum whose variants each have one spelling, the same in the API, the database, the log and the
/// metrics.
///
/// The schema of an `open` enum does not list the spellings, because a later version may add some. Generated
/// clients then accept spellings that they do not know.
macro_rules! word_enum {
    ($(#[doc = $doc:literal])* open $name:ident { $($variants:tt)* }) => {
        word_enum! { @base $(#[doc = $doc])* $name { $($variants)* } }

        json_string! { $name (as_str) { description: concat!($($doc),*).trim().to_owned() } }
    };
    ($(#[$doc:meta])* $name:ident { $($variants:tt)* }) => {
        word_enum! { @base $(#[$doc])* $name { $($variants)* } }

        json_string! { $name (as_str) { enum_values: $name::WORDS.iter().map(|word| (*word).into()).collect() } }
    };
    (@base $(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// All variants, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The spellings of all variants, in the same order.
            pub const WORDS: &[&str] = &[$($word,)*];

            /// Returns the spelling of this variant.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// Returns the variant with this spelling.
            pub fn parse(word: &str) -> Option<Self> {
                match word { $($word => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let word = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(deserializer)?;
                Self::parse(&word).ok_or_else(|| serde::de::Error::unknown_variant(&word, Self::WORDS))
            }
        }
    };
}

pub(crate) use {json_string, word_enum};

/// Returns the known word with the smallest edit distance to `word`, and that distance.
pub fn nearest<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<(usize, &'w str)> {
    known.map(|candidate| (strsim::levenshtein(word, candidate), candidate)).min_by_key(|(edits, _)| *edits)
}

/// Returns the known word for which `word` is probably a typing error: fewer than half of its characters differ.
pub fn similar<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    nearest(word, known).filter(|(edits, near)| edits * 2 < near.len()).map(|(_, near)| near)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_known_word_with_the_fewest_edits_is_suggested() {
        let known = ["listen", "log", "store"];
        assert_eq!(nearest("listn", known.into_iter()), Some((1, "listen")));
        assert_eq!(nearest("", known.into_iter()), Some((3, "log")));
        assert_eq!(nearest("listn", [].into_iter()), None);
        assert_eq!(similar("listn", known.into_iter()), Some("listen"));
        assert_eq!(similar("foo", known.into_iter()), None);
    }
}
