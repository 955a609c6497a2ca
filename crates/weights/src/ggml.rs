//! ggml's tensor type ids: names and sizes of every one a file may hold.

use std::fmt;

use kvist_base::QuantFormat;

macro_rules! ggml_types {
    ($($variant:ident = $id:literal, $name:literal, $weights:literal, $bytes:literal;)*) => {
        /// How a GGUF file stores a tensor: the ids of ggml's `enum ggml_type`. kvist knows the
        /// size of all of them and computes with those [`GgmlType::format`] maps.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[allow(missing_docs)] // each is the name of a published format
        pub enum GgmlType {
            $($variant,)*
        }

        impl GgmlType {
            /// Every known type, in the order of their ids.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The type with this id, or `None` when it was removed from the format or is not known.
            pub const fn from_id(id: u32) -> Option<Self> {
                match id {
                    $($id => Some(Self::$variant),)*
                    _ => None,
                }
            }

            /// The id in files.
            pub const fn id(self) -> u32 {
                match self { $(Self::$variant => $id,)* }
            }

            /// The name tools print.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Weights in one quant block; a row is whole blocks.
            pub const fn block_weights(self) -> usize {
                match self { $(Self::$variant => $weights,)* }
            }

            /// Bytes of one quant block.
            pub const fn block_bytes(self) -> usize {
                match self { $(Self::$variant => $bytes,)* }
            }
        }
    };
}

ggml_types! {
    // variant = id, name, weights and bytes of a block
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 36;
    Q2K = 10, "Q2_K", 256, 84;
    Q3K = 11, "Q3_K", 256, 110;
    Q4K = 12, "Q4_K", 256, 144;
    Q5K = 13, "Q5_K", 256, 176;
    Q6K = 14, "Q6_K", 256, 210;
    Q8K = 15, "Q8_K", 256, 292;
    Iq2Xxs = 16, "IQ2_XXS", 256, 66;
    Iq2Xs = 17, "IQ2_XS", 256, 74;
    Iq3Xxs = 18, "IQ3_XXS", 256, 98;
    Iq1S = 19, "IQ1_S", 256, 50;
    Iq4Nl = 20, "IQ4_NL", 32, 18;
    Iq3S = 21, "IQ3_S", 256, 110;
    Iq2S = 22, "IQ2_S", 256, 82;
    Iq4Xs = 23, "IQ4_XS", 256, 136;
    I8 = 24, "I8", 1, 1;
    I16 = 25, "I16", 1, 2;
    I32 = 26, "I32", 1, 4;
    I64 = 27, "I64", 1, 8;
    F64 = 28, "F64", 1, 8;
    Iq1M = 29, "IQ1_M", 256, 56;
    BF16 = 30, "BF16", 1, 2;
    Tq1_0 = 34, "TQ1_0", 256, 54;
    Tq2_0 = 35, "TQ2_0", 256, 66;
    Mxfp4 = 39, "MXFP4", 32, 17;
    Nvfp4 = 40, "NVFP4", 64, 36;
    Q1_0 = 41, "Q1_0", 128, 18;
    Q2_0 = 42, "Q2_0", 64, 18;
}

impl GgmlType {
    /// The name of a type that files may no longer use, by its id.
    pub const fn removed(id: u32) -> Option<&'static str> {
        Some(match id {
            4 => "Q4_2",
            5 => "Q4_3",
            31 => "Q4_0_4_4",
            32 => "Q4_0_4_8",
            33 => "Q4_0_8_8",
            36 => "IQ4_NL_4_4",
            37 => "IQ4_NL_4_8",
            38 => "IQ4_NL_8_8",
            _ => return None,
        })
    }

    /// The format kvist computes with, or `None` for a type it only knows by name.
    pub const fn format(self) -> Option<QuantFormat> {
        Some(match self {
            Self::F32 => QuantFormat::F32,
            Self::F16 => QuantFormat::F16,
            Self::BF16 => QuantFormat::BF16,
            Self::Q4_0 => QuantFormat::Q4_0,
            Self::Q4_1 => QuantFormat::Q4_1,
            Self::Q5_0 => QuantFormat::Q5_0,
            Self::Q5_1 => QuantFormat::Q5_1,
            Self::Q8_0 => QuantFormat::Q8_0,
            Self::Q4K => QuantFormat::Q4K,
            Self::Q5K => QuantFormat::Q5K,
            Self::Q6K => QuantFormat::Q6K,
            Self::Iq4Nl => QuantFormat::Iq4Nl,
            Self::Iq4Xs => QuantFormat::Iq4Xs,
            _ => return None,
        })
    }
}

impl From<QuantFormat> for GgmlType {
    fn from(format: QuantFormat) -> Self {
        match format {
            QuantFormat::F32 => Self::F32,
            QuantFormat::F16 => Self::F16,
            QuantFormat::BF16 => Self::BF16,
            QuantFormat::Q4_0 => Self::Q4_0,
            QuantFormat::Q4_1 => Self::Q4_1,
            QuantFormat::Q5_0 => Self::Q5_0,
            QuantFormat::Q5_1 => Self::Q5_1,
            QuantFormat::Q8_0 => Self::Q8_0,
            QuantFormat::Q4K => Self::Q4K,
            QuantFormat::Q5K => Self::Q5K,
            QuantFormat::Q6K => Self::Q6K,
            QuantFormat::Iq4Nl => Self::Iq4Nl,
            QuantFormat::Iq4Xs => Self::Iq4Xs,
        }
    }
}

impl fmt::Display for GgmlType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_gaps_are_removed_or_unknown() {
        for &ggml_type in GgmlType::ALL {
            assert_eq!(GgmlType::from_id(ggml_type.id()), Some(ggml_type));
            assert_eq!(GgmlType::removed(ggml_type.id()), None);
        }
        for id in 0..=42 {
            assert_ne!(
                GgmlType::from_id(id).is_some(),
                GgmlType::removed(id).is_some(),
                "{id}"
            );
        }
        assert_eq!(GgmlType::from_id(43), None);
        assert_eq!(GgmlType::removed(43), None);
    }

    #[test]
    fn supported_types_agree_with_the_shared_formats() {
        for format in QuantFormat::ALL {
            let ggml_type = GgmlType::from(format);
            assert_eq!(ggml_type.format(), Some(format));
            assert_eq!(ggml_type.name(), format.name());
            assert_eq!(ggml_type.block_weights(), format.block_weights());
            assert_eq!(ggml_type.block_bytes(), format.block_bytes());
        }
        let supported = GgmlType::ALL
            .iter()
            .filter(|known| known.format().is_some())
            .count();
        assert_eq!(supported, QuantFormat::ALL.len());
    }
}
