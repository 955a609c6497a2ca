//! Responses that can be asked for again, or gone on from. In memory, and bounded.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kvist_engine::{ChatInput, ChatMessage};

use crate::auth::Caller;
use crate::wire::responses::ResponseObject;

/// Responses kept. The oldest goes first.
const RESPONSES_MAX: usize = 1024;
/// Bytes they may have together, roughly.
const BYTES_MAX: usize = 32 << 20;

/// An answer, and the conversation it ends.
#[derive(Debug)]
pub(crate) struct StoredResponse {
    pub(crate) answer: ResponseObject,
    /// With the answer, without instructions.
    pub(crate) messages: Vec<ChatMessage>,
    /// Only the holder of the key it was made with may see it.
    pub(crate) owner: Caller,
}

impl StoredResponse {
    /// Roughly the bytes it takes: the conversation, and the answer with its own texts.
    fn bytes(&self) -> usize {
        const FIXED: usize = 1024;
        let messages = self.messages.clone();
        let conversation = ChatInput {
            messages,
            ..ChatInput::default()
        };
        let answer = serde_json::to_vec(&self.answer).map_or(0, |json| json.len());
        conversation.bytes() + answer + FIXED
    }
}

/// The responses that are kept.
#[derive(Debug, Default)]
pub(crate) struct ResponseStore(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: BTreeMap<String, (Arc<StoredResponse>, usize)>,
    /// Oldest first.
    order: VecDeque<String>,
    bytes: usize,
}

impl ResponseStore {
    /// Keeps a response; older ones go to make room. One that is larger than all the room there is
    /// is not kept.
    pub(crate) fn put(&self, response: StoredResponse) {
        let bytes = response.bytes();
        if bytes > BYTES_MAX {
            return;
        }
        let mut kept = self.lock();
        while kept.order.len() >= RESPONSES_MAX || kept.bytes + bytes > BYTES_MAX {
            kept.drop_oldest();
        }
        let id = response.answer.id.clone();
        kept.bytes += bytes;
        kept.order.push_back(id.clone());
        kept.by_id.insert(id, (Arc::new(response), bytes));
    }

    /// A response that is kept and that `caller` may see.
    pub(crate) fn get(&self, id: &str, caller: Caller) -> Option<Arc<StoredResponse>> {
        let kept = self.lock();
        let (response, _) = kept.by_id.get(id)?;
        (response.owner == caller).then(|| Arc::clone(response))
    }

    /// A panicking holder can leave `bytes` wrong, which costs room and nothing else.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn drop_oldest(&mut self) {
        let oldest = self.order.pop_front();
        if let Some((_, bytes)) = oldest.and_then(|id| self.by_id.remove(&id)) {
            self.bytes -= bytes;
        } else {
            // There is nothing left to drop.
            self.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::responses::Echoed;

    fn response(id: &str, text: String, owner: Caller) -> StoredResponse {
        StoredResponse {
            answer: ResponseObject {
                id: id.to_owned(),
                object: "response",
                created_at: 0,
                status: "completed",
                error: None,
                incomplete_details: None,
                model: String::new(),
                output: Vec::new(),
                truncation: "disabled",
                text: serde_json::Value::Null,
                reasoning: serde_json::Value::Null,
                usage: None,
                echoed: Echoed::default(),
            },
            messages: vec![ChatMessage {
                content: Some(text),
                ..ChatMessage::default()
            }],
            owner,
        }
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many() {
        let store = ResponseStore::default();
        let anyone = Caller::default();
        for number in 0..=RESPONSES_MAX {
            store.put(response(&number.to_string(), String::new(), anyone));
        }
        assert!(store.get("0", anyone).is_none());
        assert!(store.get("1", anyone).is_some());
        assert_eq!(store.lock().by_id.len(), RESPONSES_MAX);
    }

    #[test]
    fn the_oldest_go_when_they_are_too_large() {
        let store = ResponseStore::default();
        let anyone = Caller::default();
        let large = || "x".repeat(BYTES_MAX / 3);
        for id in ["a", "b", "c"] {
            store.put(response(id, large(), anyone));
        }
        assert!(store.get("a", anyone).is_none() && store.get("c", anyone).is_some());
        assert!(store.lock().bytes <= BYTES_MAX);
        store.put(response("huge", "x".repeat(BYTES_MAX + 1), anyone));
        assert!(store.get("huge", anyone).is_none() && store.get("c", anyone).is_some());
    }

    #[test]
    fn a_response_is_its_owners() {
        let store = ResponseStore::default();
        let (one, two) = (Caller { key: Some(1) }, Caller { key: Some(2) });
        store.put(response("a", String::new(), one));
        assert!(store.get("a", one).is_some() && store.get("a", two).is_none());
    }
}
