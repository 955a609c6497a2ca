//! `POST /v1/plan`: a served model under other limits.

use super::common::Integer;
use super::memory::SizeText;
use super::read::wire_object;

wire_object! {
    /// The limits to plan with; what is left out stays as it is served. Names are those of the flags.
    pub(crate) struct PlanRequest {
        model: String,
        max_model_len: Integer,
        max_num_seqs: Integer,
        memory: SizeText,
        kv_cache_dtype: String,
    }
}
