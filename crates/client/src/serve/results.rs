//! Takes results: one method, whose streams are of packets where the result goes into a directory
//! and of pieces where it is a file.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::StreamExt;
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::metadata::MetadataMap;
use tonic::server::{Grpc, NamedService, StreamingService};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use weld_proto::fsutil::Packet;
use weld_proto::session::BytesMessage;
use weld_proto::session::filesync::{EXPORTER_ID, EXPORTER_MULTI_PLATFORM, SEND};
use weld_session::MAX_MESSAGE;
use weld_session::transfer::{ReceiveOptions, RemoteTree};

use super::files::Packets;
use super::targets::Targets;

/// How many packets may wait to be sent.
const QUEUE: usize = 256;

/// The service.
#[derive(Clone)]
pub(super) struct FileSend(pub(super) Arc<Targets>);

impl NamedService for FileSend {
    const NAME: &'static str = "moby.filesync.v1.FileSend";
}

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl tower::Service<http::Request<Body>> for FileSend {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Answering {
        let targets = Arc::clone(&self.0);
        Box::pin(async move {
            if request.uri().path() != SEND {
                return Ok(Status::unimplemented("there is no such method").into_http());
            }
            let number = request.headers().get(EXPORTER_ID);
            let number = number.and_then(|number| number.to_str().ok()?.parse().ok());
            let number = number.unwrap_or(0);
            Ok(match targets.is_directory(number) {
                Ok(true) => {
                    let codec = ProstCodec::<Packet, Packet>::default();
                    grpc(codec).streaming(Trees(targets, number), request).await
                }
                Ok(false) => {
                    let codec = ProstCodec::<BytesMessage, BytesMessage>::default();
                    grpc(codec).streaming(Files(targets, number), request).await
                }
                Err(status) => status.into_http(),
            })
        })
    }
}

fn grpc<T: tonic::codec::Codec>(codec: T) -> Grpc<T> {
    Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), Some(MAX_MESSAGE))
}

/// Results that are directories.
struct Trees(Arc<Targets>, usize);

impl StreamingService<Packet> for Trees {
    type Response = Packet;
    type ResponseStream = Packets;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Packets>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<Packet>>) -> Self::Future {
        let (targets, number) = (Arc::clone(&self.0), self.1);
        Box::pin(async move {
            let is_whole = is_multi_platform(request.metadata());
            let (outgoing, mut packets) = mpsc::channel(QUEUE);
            let packets = futures_util::stream::poll_fn(move |cx| packets.poll_recv(cx));
            let incoming = request.into_inner();
            let failed = outgoing.clone();
            let task = tokio::spawn(async move {
                let tree = RemoteTree::start(incoming.boxed(), outgoing, ReceiveOptions::default());
                if let Err(error) = targets.take_tree(number, tree, is_whole).await {
                    let packet = Packet {
                        r#type: weld_proto::fsutil::PacketType::Err.into(),
                        data: error.to_string().into(),
                        ..Packet::default()
                    };
                    // It may be gone.
                    drop(failed.send(packet).await);
                }
            });
            Ok(Response::new(Packets::new(
                packets,
                AbortOnDropHandle::new(task),
            )))
        })
    }
}

/// Whether the stream has the files of all platforms, so that what is not in it can be deleted.
fn is_multi_platform(metadata: &MetadataMap) -> bool {
    let mut values = metadata.get_all(EXPORTER_MULTI_PLATFORM).iter();
    values.any(|value| value == "1")
}

/// Results that are files.
struct Files(Arc<Targets>, usize);

impl StreamingService<BytesMessage> for Files {
    type Response = BytesMessage;
    type ResponseStream = futures_util::stream::Empty<Result<BytesMessage, Status>>;
    type Future =
        Pin<Box<dyn Future<Output = Result<Response<Self::ResponseStream>, Status>> + Send>>;

    fn call(&mut self, request: Request<Streaming<BytesMessage>>) -> Self::Future {
        let (targets, number) = (Arc::clone(&self.0), self.1);
        Box::pin(async move {
            let taken = targets.take_file(number, request.into_inner()).await;
            taken?;
            Ok(Response::new(futures_util::stream::empty()))
        })
    }
}
