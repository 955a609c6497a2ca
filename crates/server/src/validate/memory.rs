//! The rules of `PUT /v1/memory`.

use kvist_base::Bytes;

use super::out_of_range;
use crate::error::ApiError;
use crate::wire::memory::{MemoryRequest, SizeText};
use crate::wire::read::{Received, Unread};

/// The budget a request asks for. Whether it is enough is for the engines to say.
pub(crate) fn budget(received: &Received<MemoryRequest>) -> Result<Bytes, ApiError> {
    // Nothing else can be set here: a field that is not `budget` is one misspelt.
    if let Some(Unread { name, .. }) = received.unread.first() {
        return Err(ApiError::Unsupported {
            field: name.clone(),
            hint: "; budget can be set",
        });
    }
    let given = received.body.budget.as_ref().ok_or(ApiError::Missing {
        field: "budget",
        hint: "give a size such as \"3GiB\", or a number of bytes",
    })?;
    size("budget", given)
}

/// A number of bytes above 0.
pub(super) fn size(field: &'static str, given: &SizeText) -> Result<Bytes, ApiError> {
    let size = given.0.parse::<Bytes>().ok().filter(|size| size.0 > 0);
    size.ok_or_else(|| {
        let limit = "a size above 0 such as \"3GiB\", or a number of bytes";
        out_of_range(field, limit, &format_args!("{:?}", given.0))
    })
}
