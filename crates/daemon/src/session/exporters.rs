//! Exporters that a client names once it knows what was built.

use std::collections::BTreeMap;

use tonic::{Code, Request, Status};
use weld_proto::session::exporter::{
    ExporterRequest, FINALIZE_EXPORT, FIND_EXPORTERS, FinalizeExportRequest,
    FinalizeExportResponse, FindExportersRequest, FindExportersResponse,
};

use super::manager::ClientSession;

/// The most exporters that a client may name this way.
const MAX_EXPORTERS: usize = 128;

impl ClientSession {
    /// What shall become of a result. A client may think about it for as long as its session
    /// lasts: it may look into what was built, or ask its user.
    ///
    /// # Errors
    /// What the client answers; one that does not name exporters is no error.
    pub async fn find_exporters(
        &self,
        request: FindExportersRequest,
    ) -> Result<Vec<ExporterRequest>, Status> {
        let answer = self.ask::<_, FindExportersResponse>(FIND_EXPORTERS, request);
        let exporters = answer.await?.unwrap_or_default().exporters;
        if exporters.len() > MAX_EXPORTERS {
            let named = exporters.len();
            return Err(Status::resource_exhausted(format!(
                "the client names {named} exporters, of which there may be {MAX_EXPORTERS}"
            )));
        }
        Ok(exporters)
    }

    /// Tells the client what the exporters told, before its build ends.
    ///
    /// # Errors
    /// What the client answers; one that does not want to know is no error.
    pub async fn finalize_export(
        &self,
        exporter_response: BTreeMap<String, String>,
    ) -> Result<(), Status> {
        let request = FinalizeExportRequest { exporter_response };
        self.ask::<_, FinalizeExportResponse>(FINALIZE_EXPORT, request)
            .await?;
        Ok(())
    }

    /// The answer, if the client has one: it says `Unavailable` for a question that it expects
    /// only as long as it has something to say.
    async fn ask<Q, A>(&self, method: &'static str, question: Q) -> Result<Option<A>, Status>
    where
        Q: prost::Message + 'static,
        A: prost::Message + Default + 'static,
    {
        let connection = self.connection().await?;
        if !connection.serves(method) {
            return Ok(None);
        }
        let answer = connection.caller.unary(method, Request::new(question));
        match answer.await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if matches!(status.code(), Code::Unavailable | Code::Unimplemented) => {
                Ok(None)
            }
            Err(status) => Err(status),
        }
    }
}
