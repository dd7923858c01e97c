//! Telling clients what became of builds.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;
use weld_proto::control::{BuildHistoryEvent, BuildHistoryEventType, BuildHistoryRequest};

use super::filter::Filter;
use super::{History, event, table};

type Events = mpsc::Sender<Result<BuildHistoryEvent, Status>>;

impl History {
    /// Tells what is known of builds and then, unless the client has enough, what becomes of them.
    pub(crate) async fn listen(self: Arc<Self>, request: BuildHistoryRequest, events: Events) {
        if let Err(status) = self.tell_all(&request, &events).await {
            // Whoever went away does not read it.
            let _ = events.send(Err(status)).await;
        }
    }

    async fn tell_all(
        self: &Arc<Self>,
        request: &BuildHistoryRequest,
        events: &Events,
    ) -> Result<(), Status> {
        let wanted =
            |reference: &str| request.reference.is_empty() || request.reference == reference;
        // Both under one lock: what begins or ends now is told once.
        let (active, mut news) = {
            let state = self.lock();
            let active: Vec<_> = state.active.values().cloned().collect();
            (active, self.events.subscribe())
        };
        for record in active
            .into_iter()
            .filter(|record| wanted(&record.reference))
        {
            let event = event(BuildHistoryEventType::Started, record);
            if events.send(Ok(event)).await.is_err() {
                return Ok(());
            }
        }
        if !request.active_only {
            for event in self.known(request).await? {
                if events.send(Ok(event)).await.is_err() {
                    return Ok(());
                }
            }
        }
        if request.early_exit {
            return Ok(());
        }
        loop {
            let event = tokio::select! {
                () = events.closed() => return Ok(()),
                event = news.recv() => event,
            };
            let event = match event {
                Ok(event) => event,
                Err(RecvError::Closed) => return Ok(()),
                Err(RecvError::Lagged(count)) => {
                    let reason = format!("{count} events were missed: the reader is too slow");
                    return Err(Status::resource_exhausted(reason));
                }
            };
            let of_interest = event
                .record
                .as_ref()
                .is_some_and(|record| wanted(&record.reference));
            if of_interest && events.send(Ok((*event).clone())).await.is_err() {
                return Ok(());
            }
        }
    }

    /// The records that a client asks for.
    async fn known(
        self: &Arc<Self>,
        request: &BuildHistoryRequest,
    ) -> Result<Vec<BuildHistoryEvent>, Status> {
        let limit = usize::try_from(request.limit)
            .map_err(|_| Status::invalid_argument(format!("invalid limit {}", request.limit)))?;
        let now = SystemTime::now();
        let filters = request.filter.iter().map(|text| Filter::parse(text, now));
        let filters = filters
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let this = Arc::clone(self);
        let records = tokio::task::spawn_blocking(move || table::all(this.store.db()))
            .await
            .map_err(|error| Status::internal(error.to_string()))??;
        let mut records: Vec<_> = records
            .into_iter()
            .filter(|record| request.reference.is_empty() || request.reference == record.reference)
            .filter(|record| {
                filters.is_empty() || filters.iter().any(|filter| filter.matches(record))
            })
            .collect();
        if limit > 0 {
            records.sort_by_key(|record| {
                let created = record.created_at.map(|time| (time.seconds, time.nanos));
                std::cmp::Reverse(created)
            });
            records.truncate(limit);
        }
        Ok(records
            .into_iter()
            .map(|record| event(BuildHistoryEventType::Complete, record))
            .collect())
    }
}
