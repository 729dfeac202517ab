//! Mistakes in what people write.

/// What is wrong with one value, wherever it was written. `hint` says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    pub message: String,
    pub hint: Option<String>,
}

impl Mistake {
    pub fn new(message: impl Into<String>) -> Mistake {
        Mistake { message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Mistake {
        self.hint = Some(hint.into());
        self
    }
}
