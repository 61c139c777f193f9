//! The connectors of a process, and how they are reached. A reload replaces the list as a whole, so that who
//! reads it sees either the old one or the new one.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::{EventLoop, Shared, SinkView, SourceView, State};

/// One sink's name and view.
#[derive(Clone, Debug)]
pub struct SinkHandle {
    /// Its name.
    pub name: String,
    /// Its view.
    pub view: Arc<Shared<SinkView>>,
    /// Wakes it after a halt.
    pub resume: Arc<Notify>,
}

impl SinkHandle {
    /// A sink that has not said anything yet.
    pub fn new(name: &str) -> Self {
        SinkHandle {
            name: name.to_owned(),
            view: Arc::default(),
            resume: Arc::default(),
        }
    }

    /// Lets a halted sink go on; the state it is in, if that is another one.
    ///
    /// # Errors
    /// The state, when it has not halted.
    pub fn resume(&self) -> Result<(), State> {
        let mut was = State::Halted;
        self.view.update(|view| {
            was = view.state;
            if was == State::Halted {
                view.state = State::Starting;
            }
        });
        if was == State::Halted {
            self.resume.notify_one();
            Ok(())
        } else {
            Err(was)
        }
    }
}

/// The connectors of this process.
#[derive(Clone, Debug, Default)]
pub struct Parts {
    /// The source, if it runs here.
    pub source: Option<(String, Arc<Shared<SourceView>>)>,
    /// Sinks that run here.
    pub sinks: Vec<SinkHandle>,
}

impl Parts {
    /// The sink of that name, if it runs here.
    pub fn sink(&self, name: &str) -> Option<&SinkHandle> {
        self.sinks.iter().find(|sink| sink.name == name)
    }
}

/// Everything that runs in this process. Clones show the same.
#[derive(Clone, Debug)]
pub struct ProcessStatus {
    /// Pipeline name.
    pub pipeline: String,
    /// Replaced as a whole by a reload.
    parts: Arc<Mutex<Arc<Parts>>>,
    /// How late this process's event loop wakes its tasks, seconds.
    pub event_loop: Arc<Shared<EventLoop>>,
}

impl ProcessStatus {
    /// A process with these connectors.
    pub fn new(pipeline: &str, parts: Parts) -> Self {
        ProcessStatus {
            pipeline: pipeline.to_owned(),
            parts: Arc::new(Mutex::new(Arc::new(parts))),
            event_loop: Arc::default(),
        }
    }

    /// The connectors that there are now.
    pub fn parts(&self) -> Arc<Parts> {
        self.lock().clone()
    }

    /// Shows other connectors from now on.
    pub fn show(&self, parts: Parts) {
        *self.lock() = Arc::new(parts);
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Parts>> {
        // Whole values only: a panic elsewhere leaves none half-done.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
