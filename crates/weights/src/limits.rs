//! Every bound on what a model file may claim. Each is far above what real files hold, and low
//! enough that a file cannot make the reader allocate or loop beyond its own size.

/// Key-value pairs in one file. Real files hold 20 to 100.
pub const KVS_MAX: u64 = 65_536;
/// Tensors in one file. Large mixtures of experts, unfused, stay below 100,000.
pub const TENSORS_MAX: u64 = 262_144;
/// Bytes of one string value, such as a chat template.
pub const STRING_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a metadata key. The specification allows 65,535; real keys stay below 100, and keys
/// are printed in errors.
pub const KEY_BYTES_MAX: u64 = 1024;
/// Bytes of a tensor name.
pub const NAME_BYTES_MAX: u64 = 1024;
/// Arrays within arrays.
pub const NESTING_MAX: u64 = 4;
/// Items of an array whose items are arrays.
pub const NESTED_ITEMS_MAX: u64 = 1024;
/// Dimensions of a tensor.
pub const DIMS_MAX: usize = 4;
/// `general.alignment`: a power of two up to this.
pub const ALIGNMENT_MAX: u32 = 1 << 20;
/// `general.alignment` when a file does not say.
pub const ALIGNMENT_DEFAULT: u32 = 32;
/// Where the last byte of a tensor may be. Keeps sums of sizes far from overflow.
pub const FILE_BYTES_MAX: u64 = 1 << 50;
/// Files a model may be split into.
pub const SPLITS_MAX: u64 = 1024;
/// Bytes of a `config.json`. Real ones have a few thousand.
pub const CONFIG_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a safetensors index. Those of the largest models have some ten million.
pub const INDEX_BYTES_MAX: u64 = 64 << 20;
/// Bytes of a safetensors header: the bound of the format's own library.
pub const SAFETENSORS_HEADER_MAX: u64 = 100_000_000;
