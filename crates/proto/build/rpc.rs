//! Short forms for describing services.

use tonic_build::manual::{Method, Service};

/// Which sides of a call send many messages.
#[derive(Clone, Copy)]
pub(crate) enum Shape {
    /// One request, one response.
    Unary,
    /// One request, many responses.
    ServerStream,
    /// Many requests, many responses.
    BothStream,
}

/// A service with methods of (name, request, response, shape); types are paths as seen from the
/// module that includes the stubs.
pub(crate) fn service(package: &str, name: &str, methods: &[(&str, &str, &str, Shape)]) -> Service {
    methods
        .iter()
        .fold(
            Service::builder().package(package).name(name),
            |service, (route, request, response, shape)| {
                service.method(method(route, request, response, *shape))
            },
        )
        .build()
}

fn method(route: &str, request: &str, response: &str, shape: Shape) -> Method {
    let name = match snake_case(route) {
        // A word of the language.
        name if name == "return" => "return_result".to_owned(),
        name => name,
    };
    let method = Method::builder()
        .name(name)
        .route_name(route)
        .input_type(request)
        .output_type(response)
        .codec_path("tonic_prost::ProstCodec");
    match shape {
        Shape::Unary => method,
        Shape::ServerStream => method.server_streaming(),
        Shape::BothStream => method.client_streaming().server_streaming(),
    }
    .build()
}

fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for char in name.chars() {
        if char.is_ascii_uppercase() && !snake.is_empty() && !snake.ends_with('_') {
            snake.push('_');
        }
        snake.push(char.to_ascii_lowercase());
    }
    snake
}
