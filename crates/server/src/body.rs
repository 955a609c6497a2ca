//! Receives request bodies within bounds.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::Bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use futures_core::Stream as _;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;

use crate::error::ApiError;
use crate::state::{App, BODY_UNIT_BYTES};

/// A share of the bytes all bodies together may have, given back when dropped.
pub(crate) type BodyShare = OwnedSemaphorePermit;

/// A received body.
#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    /// To be held as long as the bytes or what was made of them.
    pub(crate) share: BodyShare,
}

/// Receives the body of a JSON request.
///
/// A missing `Content-Type` is taken for JSON. Bytes are accounted for as they arrive, so that a
/// client which announces much and sends little takes nothing from the others.
pub(crate) async fn receive(app: &App, request: Request) -> Result<Received, ApiError> {
    check_media(request.headers())?;
    let limit = app.limits.body_bytes_max;
    let bytes_max = usize::try_from(limit.0).unwrap_or(usize::MAX);
    let too_large = || ApiError::BodyTooLarge { limit };
    if announced(request.headers()).is_some_and(|len| len > limit.0) {
        return Err(too_large());
    }
    let pieces_max = app.limits.body_pieces_max;
    let reading = async {
        let mut pieces = 0;
        let mut body = request.into_body().into_data_stream();
        let mut received = Received {
            bytes: Vec::new(),
            share: share(app, 0)?,
        };
        while let Some(piece) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
            let piece = piece.map_err(|_| ApiError::BodyBroken)?;
            pieces += 1;
            if pieces > pieces_max {
                return Err(ApiError::TooManyPieces { limit: pieces_max });
            }
            if received.bytes.len() + piece.len() > bytes_max {
                return Err(too_large());
            }
            received.append(app, &piece)?;
        }
        Ok(received)
    };
    let time_max = app.limits.body_time_max;
    timeout(time_max, reading)
        .await
        .unwrap_or(Err(ApiError::BodyTooSlow {
            seconds: time_max.as_secs(),
        }))
}

impl Received {
    fn append(&mut self, app: &App, piece: &Bytes) -> Result<(), ApiError> {
        let held = self.bytes.len().div_ceil(BODY_UNIT_BYTES);
        let needed = (self.bytes.len() + piece.len()).div_ceil(BODY_UNIT_BYTES);
        self.share.merge(share(app, needed - held)?);
        self.bytes.extend_from_slice(piece);
        Ok(())
    }
}

fn share(app: &App, units: usize) -> Result<BodyShare, ApiError> {
    let units = u32::try_from(units).map_err(|_| ApiError::ReceivingTooMuch)?;
    app.bodies
        .clone()
        .try_acquire_many_owned(units)
        .map_err(|_| ApiError::ReceivingTooMuch)
}

fn announced(headers: &HeaderMap) -> Option<u64> {
    headers
        .get(header::CONTENT_LENGTH)?
        .to_str()
        .ok()?
        .parse()
        .ok()
}

fn check_media(headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()))
    };
    if let Some(given) = text(header::CONTENT_ENCODING)
        && !given.eq_ignore_ascii_case("identity")
    {
        let given = given.into_owned();
        return Err(ApiError::UnsupportedMedia {
            header: "Content-Encoding",
            given,
        });
    }
    if let Some(given) = text(header::CONTENT_TYPE)
        && !is_json(&given)
    {
        let given = given.into_owned();
        return Err(ApiError::UnsupportedMedia {
            header: "Content-Type",
            given,
        });
    }
    Ok(())
}

/// `application/json` or `application/…+json`, with or without parameters.
fn is_json(media_type: &str) -> bool {
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    subtype == "json" || subtype.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_known_by_its_media_type() {
        for yes in [
            "application/json",
            "Application/JSON; charset=utf-8",
            "application/ld+json",
        ] {
            assert!(is_json(yes), "{yes}");
        }
        for no in [
            "",
            "text/json",
            "application/jsonp",
            "application/xml",
            "json",
        ] {
            assert!(!is_json(no), "{no}");
        }
    }
}
