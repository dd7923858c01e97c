//! What the tests work with: scripted vertices, gates that hold them, and a solver with its stores.

mod gate;
mod sessions;
mod vertex;
mod world;

pub(crate) use gate::Gate;
pub(crate) use sessions::*;
pub(crate) use vertex::*;
use weld_solver::OpContext;
pub(crate) use world::*;

pub(crate) type Value = String;
pub(crate) type Context = OpContext<Value>;
