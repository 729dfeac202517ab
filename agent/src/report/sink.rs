//! Who gets the events of a job one by one.

use agent_types::events::Event;

/// Takes the events of a job as they come: a file, a console.
pub trait Sink: Send {
    /// Names its step in the report stage, and messages about it.
    fn name(&self) -> &'static str;

    /// Whether a job that passed ends with an error if the sink broke.
    fn is_required(&self) -> bool {
        false
    }

    /// # Errors
    /// When it cannot take the event. It is not asked again.
    fn event(&mut self, event: &Event) -> std::io::Result<()>;

    /// Called about once a second while no event comes, by whoever gives the sink a thread of its own.
    ///
    /// # Errors
    /// As [`Sink::event`].
    fn tick(&mut self) -> std::io::Result<()> {
        Ok(())
    }

    /// Waits until all events are where they belong, as long as the sink's deadline allows.
    ///
    /// # Errors
    /// When they are not.
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
