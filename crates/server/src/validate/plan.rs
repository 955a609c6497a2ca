//! The rules of `POST /v1/plan`. What the planner knows better, it says itself.

use kvist_base::{KvDtype, Tokens};
use kvist_engine::PlanChange;

use super::memory::size;
use super::{bounded, out_of_range};
use crate::error::ApiError;
use crate::wire::plan::PlanRequest;
use crate::wire::read::{Received, Unread};

/// The limits a request asks about.
pub(crate) fn plan_change(received: &Received<PlanRequest>) -> Result<PlanChange, ApiError> {
    // A limit that is not among ours would be left out of the answer without a word.
    if let Some(Unread { name, .. }) = received.unread.first() {
        return Err(ApiError::Unsupported {
            field: name.clone(),
            hint: "; max_model_len, max_num_seqs, memory and kv_cache_dtype can be planned",
        });
    }
    let PlanRequest {
        model: _,
        max_model_len,
        max_num_seqs,
        memory,
        kv_cache_dtype,
    } = &received.body;
    let model_len = max_model_len
        .as_ref()
        .map(|given| bounded("max_model_len", given.0, 1..=u32::MAX))
        .transpose()?;
    let running_max = max_num_seqs
        .as_ref()
        .map(|given| bounded("max_num_seqs", given.0, 1..=u32::MAX))
        .transpose()?;
    let memory = memory
        .as_ref()
        .map(|given| size("memory", given))
        .transpose()?;
    let kv_dtype = kv_cache_dtype.as_deref().map(kv_dtype).transpose()?;
    Ok(PlanChange {
        model_len: model_len.map(Tokens),
        running_max,
        memory,
        kv_dtype,
    })
}

fn kv_dtype(given: &str) -> Result<KvDtype, ApiError> {
    let named = KvDtype::ALL.into_iter().find(|dtype| dtype.name() == given);
    named.ok_or_else(|| {
        let limit = format!("one of {}", KvDtype::ALL.map(KvDtype::name).join(", "));
        out_of_range("kv_cache_dtype", limit, &format_args!("{given:?}"))
    })
}
