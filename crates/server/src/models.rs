//! The models a server answers for, and which of them a request means.

use kvist_engine::{EngineHandle, EngineStatus};

use crate::error::ApiError;

/// The models a server answers for. The first is the one meant by requests that name none.
#[derive(Clone, Debug)]
pub struct Models {
    /// Never empty.
    members: Vec<Member>,
}

/// One model and the names it goes by.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    /// Never empty; answers carry the first.
    names: Vec<String>,
    engine: EngineHandle,
}

/// A model that is ready to serve one request.
#[derive(Clone, Debug)]
pub(crate) struct Served {
    /// The name answers carry.
    pub(crate) name: String,
    pub(crate) engine: EngineHandle,
}

impl From<EngineHandle> for Models {
    /// One model under its own name.
    fn from(engine: EngineHandle) -> Self {
        let names = vec![engine.info().name.clone()];
        Self {
            members: vec![Member { names, engine }],
        }
    }
}

impl Models {
    /// Several models, each with its names.
    ///
    /// # Panics
    /// Without any model.
    pub fn new(models: impl IntoIterator<Item = (Vec<String>, EngineHandle)>) -> Self {
        let member = |(mut names, engine): (Vec<String>, EngineHandle)| {
            if names.is_empty() {
                names.push(engine.info().name.clone());
            }
            Member { names, engine }
        };
        let members: Vec<Member> = models.into_iter().map(member).collect();
        assert!(!members.is_empty(), "a server has a model to serve");
        Self { members }
    }

    /// Lets the first model go by `names` instead of its own; none change nothing.
    pub(crate) fn name_first(&mut self, names: Vec<String>) {
        if !names.is_empty() {
            self.members[0].names = names;
        }
    }

    /// The model a request means: the first if it names none.
    pub(crate) fn find(&self, given: Option<&str>) -> Result<&Member, ApiError> {
        let Some(given) = given else {
            return Ok(&self.members[0]);
        };
        let named = |member: &&Member| member.names.iter().any(|name| name == given);
        self.members
            .iter()
            .find(named)
            .ok_or_else(|| ApiError::UnknownModel {
                given: given.to_owned(),
                served: self.names().map(|(name, _)| name.to_owned()).collect(),
            })
    }

    /// Every name a request may use, with the model it stands for.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, &Member)> {
        self.members
            .iter()
            .flat_map(|member| member.names.iter().map(move |name| (name.as_str(), member)))
    }

    /// Every model that can be asked for its numbers now.
    pub(crate) fn loaded(&self) -> impl Iterator<Item = Served> {
        self.members.iter().map(Member::served)
    }

    /// Whether requests can be taken: the worst of what the engines say.
    pub(crate) fn status(&self) -> EngineStatus {
        let mut worst = EngineStatus::Ready;
        for member in &self.members {
            match member.engine.status() {
                failed @ EngineStatus::Failed(_) => return failed,
                EngineStatus::Draining => worst = EngineStatus::Draining,
                EngineStatus::Ready => {}
            }
        }
        worst
    }

    /// Takes nothing new from now on; what was accepted is finished.
    pub(crate) fn drain(&self) {
        self.members.iter().for_each(|member| member.engine.drain());
    }
}

impl Member {
    /// The model's engine, for one request.
    pub(crate) fn served(&self) -> Served {
        Served {
            name: self.names[0].clone(),
            engine: self.engine.clone(),
        }
    }

    /// What the model calls itself.
    pub(crate) fn root(&self) -> &str {
        &self.engine.info().name
    }

    /// Largest prompt and output together, in tokens.
    pub(crate) fn model_len(&self) -> u32 {
        self.engine.info().model_len.0
    }
}
