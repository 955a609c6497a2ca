//! Finds any of a set of strings in a text that arrives piece by piece.

use std::collections::VecDeque;

use crate::trie::{NodeIdx, Trie};

/// An Aho-Corasick automaton (Aho and Corasick 1975): the time is linear in the text.
pub(crate) struct Automaton {
    trie: Trie,
    /// By node: the node of the longest proper suffix that is also in the trie.
    suffix: Vec<NodeIdx>,
    /// By node: length of its string.
    depth: Vec<usize>,
    /// By node: the longest string of the set its string ends with, as (length, number).
    completed: Vec<Option<(usize, usize)>>,
}

impl Automaton {
    /// Where a text begins.
    pub const START: NodeIdx = Trie::ROOT;

    /// Links each node to its longest suffix, in breadth-first order so that the suffix, being
    /// shorter, is complete when it is needed.
    pub fn new(trie: Trie) -> Self {
        let len = trie.len();
        let mut this = Self {
            trie,
            suffix: vec![Trie::ROOT; len],
            depth: vec![0; len],
            completed: vec![None; len],
        };
        let mut queue = VecDeque::from([Trie::ROOT]);
        while let Some(parent) = queue.pop_front() {
            for edge in 0..this.trie.children(parent).len() {
                let (byte, node) = this.trie.children(parent)[edge];
                let suffix = match parent {
                    Trie::ROOT => Trie::ROOT,
                    _ => this.step(this.suffix[parent as usize], byte),
                };
                let depth = this.depth[parent as usize] + 1;
                let own = this.trie.value(node).map(|number| (depth, number as usize));
                this.depth[node as usize] = depth;
                this.suffix[node as usize] = suffix;
                this.completed[node as usize] = own.or(this.completed[suffix as usize]);
                queue.push_back(node);
            }
        }
        this
    }

    /// The node of the longest suffix of `node`'s string plus `byte` that is in the trie.
    pub fn step(&self, mut node: NodeIdx, byte: u8) -> NodeIdx {
        loop {
            if let Some(next) = self.trie.child(node, byte) {
                return next;
            }
            if node == Trie::ROOT {
                return Trie::ROOT;
            }
            node = self.suffix[node as usize];
        }
    }

    /// [`Self::step`] over the bytes of a character.
    pub fn step_char(&self, node: NodeIdx, character: char) -> NodeIdx {
        let mut bytes = [0; 4];
        let bytes = character.encode_utf8(&mut bytes).bytes();
        bytes.fold(node, |node, byte| self.step(node, byte))
    }

    /// Bytes at the end of the text that may be the beginning of one of the strings.
    pub fn held_len(&self, node: NodeIdx) -> usize {
        self.depth[node as usize]
    }

    /// The longest string the text ends with: its length and its number.
    pub fn completed(&self, node: NodeIdx) -> Option<(usize, usize)> {
        self.completed[node as usize]
    }
}
