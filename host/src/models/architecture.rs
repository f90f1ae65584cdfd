//! Which network a file holds: seen from the names of its tensors.

use reverie_kernels::Backend;

use super::{RrdbNet, SrvggNetCompact, Upscale, Weights, WeightsError};

/// What can be told of a network before it is loaded.
#[derive(Debug, Clone, PartialEq)]
pub struct Description {
    /// The name of its class.
    pub architecture: &'static str,
    /// The factors of one pass, ascending; at least one.
    pub scales: Vec<u32>,
}

/// Finds out what a file holds and checks every tensor's presence, shape and type.
///
/// # Errors
/// The tensor that is missing or misshapen, or that no known network has these names.
pub fn describe(weights: &Weights) -> Result<Description, WeightsError> {
    if weights.has("conv_first.weight") {
        Ok(Description { architecture: "RRDBNet", scales: vec![super::rrdbnet::scale(weights)?] })
    } else if weights.has("body.0.weight") {
        Ok(Description { architecture: "SRVGGNetCompact", scales: super::srvgg::scales(weights)? })
    } else {
        let reason = "it has neither 'conv_first.weight' (RRDBNet) nor 'body.0.weight' (SRVGGNetCompact)";
        Err(weights.unknown(reason))
    }
}

/// Loads the network that [`describe`] found.
///
/// # Errors
/// Those of [`describe`].
pub fn load<B: Backend>(backend: &B, weights: &Weights) -> Result<Box<dyn Upscale<B>>, WeightsError> {
    match describe(weights)?.architecture {
        "RRDBNet" => Ok(Box::new(RrdbNet::load(backend, weights)?)),
        _ => Ok(Box::new(SrvggNetCompact::load(backend, weights)?)),
    }
}
