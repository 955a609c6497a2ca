//! Grammars over the vocabulary of a file, without its model.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use kvist_base::TokenId;
use kvist_grammar::{Compiler, Constraint, ConstraintError, Grammar};
use kvist_text::Tokenizer;
use kvist_weights::GgufFile;

use super::compile::vocabulary;
use crate::load::LoadError;
use crate::vocab::vocab_spec;

/// Compiles constraints for a file's vocabulary, as an engine with this model would: to measure and
/// to try grammars.
pub struct FileGrammars {
    tokenizer: Arc<dyn Tokenizer>,
    compiler: Compiler,
}

impl FileGrammars {
    /// Reads the vocabulary of a GGUF file, and prepares it.
    ///
    /// # Errors
    /// [`LoadError`] for a file that is no model's; inside it, that the vocabulary is too large for
    /// grammars.
    pub fn open(path: &Path) -> Result<Result<Self, ConstraintError>, LoadError> {
        let file = GgufFile::open(path)?;
        let tokenizer = kvist_text::from_vocab(vocab_spec(file.metadata())?)?;
        let compiler = Compiler::new(|| vocabulary(&*tokenizer));
        Ok(compiler.map(|compiler| Self {
            tokenizer,
            compiler,
        }))
    }

    /// Checks and compiles, on this thread.
    ///
    /// # Errors
    /// Those of a request with this constraint.
    pub fn compile(&self, constraint: &Constraint) -> Result<Grammar, ConstraintError> {
        self.compiler.compile(constraint)
    }

    /// The bytes a token stands for in a text; `None` if it ends it.
    pub fn token_bytes(&self, token: TokenId) -> Option<Vec<u8>> {
        let bytes = || self.tokenizer.token_bytes(token).unwrap_or_default();
        (!self.tokenizer.is_end(token)).then(|| bytes().into_owned())
    }

    /// Tokens in the vocabulary.
    pub fn vocab_len(&self) -> usize {
        self.tokenizer.vocab_len()
    }
}

impl fmt::Debug for FileGrammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileGrammars")
            .field("vocab_len", &self.vocab_len())
            .finish_non_exhaustive()
    }
}
