//! A byte trie over a set of strings.

/// Index of a node; the root is 0.
pub(crate) type NodeIdx = u32;

#[derive(Default)]
struct Node {
    /// Sorted by byte.
    edges: Vec<(u8, NodeIdx)>,
    value: Option<u32>,
}

/// Strings with a number each.
pub(crate) struct Trie {
    nodes: Vec<Node>,
}

impl Trie {
    pub const ROOT: NodeIdx = 0;

    pub fn new() -> Self {
        Self {
            nodes: vec![Node::default()],
        }
    }

    /// Adds `text`, unless it is there already: the first value stays.
    pub fn insert(&mut self, text: &[u8], value: u32) {
        let mut at = Self::ROOT;
        for &byte in text {
            at = match self.nodes[at as usize]
                .edges
                .binary_search_by_key(&byte, |edge| edge.0)
            {
                Ok(found) => self.nodes[at as usize].edges[found].1,
                Err(place) => {
                    let new = NodeIdx::try_from(self.nodes.len())
                        .expect("callers bound the text they insert below 4 GiB");
                    self.nodes.push(Node::default());
                    self.nodes[at as usize].edges.insert(place, (byte, new));
                    new
                }
            };
        }
        self.nodes[at as usize].value.get_or_insert(value);
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn child(&self, node: NodeIdx, byte: u8) -> Option<NodeIdx> {
        let edges = &self.nodes[node as usize].edges;
        edges
            .binary_search_by_key(&byte, |edge| edge.0)
            .ok()
            .map(|found| edges[found].1)
    }

    pub fn children(&self, node: NodeIdx) -> &[(u8, NodeIdx)] {
        &self.nodes[node as usize].edges
    }

    pub fn value(&self, node: NodeIdx) -> Option<u32> {
        self.nodes[node as usize].value
    }

    /// The longest string in the set that `text` begins with: its length and number.
    pub fn longest_prefix(&self, text: &[u8]) -> Option<(usize, u32)> {
        let mut at = Self::ROOT;
        let mut best = None;
        for (read, &byte) in text.iter().enumerate() {
            let Some(next) = self.child(at, byte) else {
                break;
            };
            at = next;
            if let Some(value) = self.value(at) {
                best = Some((read + 1, value));
            }
        }
        best
    }
}
