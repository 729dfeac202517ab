//! From the subscriber's events and spans to records in a queue.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tracing::span::{Attributes, Id, Record as Values};
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::{LookupSpan, Scope};

use super::filter::is_own;
use super::queue::Queue;
use super::record::{Fields, Record, SpanData, Value};

/// Records every event, and the start and end of each span of the program's own. Two of them share what they know of
/// a span.
pub struct Capture {
    pub queue: Arc<Queue>,
}

/// What a span has as its extension. A type of its own, so that no other layer's is mistaken for it.
struct Known(Arc<SpanData>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Capture {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        // A value's `Debug` may panic; no lock may be held then.
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        let Some(span) = context.span(id) else { return };
        let metadata = attributes.metadata();
        let data = SpanData {
            name: metadata.name(),
            is_own: is_own(metadata.target()),
            fields: fields.clone(),
            started: Instant::now(),
        };
        let is_own = data.is_own;
        {
            let mut extensions = span.extensions_mut();
            if extensions.get_mut::<Known>().is_none() {
                extensions.insert(Known(Arc::new(data)));
            }
        }
        if is_own {
            let parents = span.parent().map(|parent| known(parent.scope())).unwrap_or_default();
            self.push(metadata, Some("start"), fields, parents);
        }
    }

    fn on_record(&self, id: &Id, values: &Values<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        let Some(span) = context.span(id) else { return };
        if let Some(Known(data)) = span.extensions_mut().get_mut::<Known>() {
            Arc::make_mut(data).fields.extend(fields);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let spans = context.event_scope(event).map(known).unwrap_or_default();
        self.push(event.metadata(), None, fields, spans);
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let Some(span) = context.span(&id) else { return };
        let Some(data) = span.extensions().get::<Known>().map(|Known(data)| data.clone()) else { return };
        if !data.is_own {
            return;
        }
        let mut fields = data.fields.clone();
        fields.add("seconds", (data.started.elapsed().as_secs_f64() * 1000.).round() / 1000.);
        let parents = span.parent().map(|parent| known(parent.scope())).unwrap_or_default();
        self.push(span.metadata(), Some("end"), fields, parents);
    }
}

impl Capture {
    /// `edge` is the start or the end of a span.
    fn push(
        &self,
        metadata: &'static Metadata<'static>,
        edge: Option<&str>,
        mut fields: Fields,
        spans: Vec<Arc<SpanData>>,
    ) {
        let message = match edge {
            Some(edge) => Value::Text(edge.to_owned()),
            None => fields.take_message(),
        };
        self.queue.push(Record {
            time: SystemTime::now(),
            level: *metadata.level(),
            target: metadata.target(),
            is_own: is_own(metadata.target()),
            span: edge.map(|_| metadata.name()),
            message,
            fields,
            spans,
        });
    }
}

/// The spans, the outermost first.
fn known<'a, S: LookupSpan<'a>>(scope: Scope<'a, S>) -> Vec<Arc<SpanData>> {
    scope.from_root().filter_map(|span| Some(span.extensions().get::<Known>()?.0.clone())).collect()
}

#[cfg(test)]
#[path = "layer_tests.rs"]
mod tests;
