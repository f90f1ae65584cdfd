//! The layers that CLIP's towers are made of.

use std::sync::Arc;

use reverie_kernels::{Backend, Mask, Unary};

use crate::{
    error::{Error, Result},
    loader::Loader,
};

/// What all layers of a tower have in common.
pub(super) struct Shape {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_attention_heads: usize,
    pub layer_norm_eps: f32,
    pub activation: Unary,
    /// The text tower's tokens see what came before; patches of a picture see each other.
    pub mask: Mask,
}

/// Attention, then an MLP, each after a normalisation and added to its input.
pub(super) struct CLIPEncoderLayer<B: Backend> {
    layer_norm1: LayerNorm<B>,
    self_attn: CLIPAttention<B>,
    layer_norm2: LayerNorm<B>,
    fc1: Arc<B::Linear>,
    activation: Unary,
    fc2: Arc<B::Linear>,
}

impl<B: Backend> CLIPEncoderLayer<B> {
    pub fn load(loader: &Loader<B>, shape: &Shape) -> Result<Self> {
        let Shape { hidden_size, intermediate_size, .. } = *shape;
        Ok(Self {
            layer_norm1: LayerNorm::load(loader, "layer_norm1", shape)?,
            self_attn: CLIPAttention::load(&loader.sub("self_attn"), shape)?,
            layer_norm2: LayerNorm::load(loader, "layer_norm2", shape)?,
            fc1: loader.linear("mlp.fc1", hidden_size, intermediate_size)?,
            activation: shape.activation,
            fc2: loader.linear("mlp.fc2", intermediate_size, hidden_size)?,
        })
    }

    /// `lens` are those of the sequences before their padding, where that is not seen.
    pub fn forward(&self, backend: &B, x: &B::Tensor, lens: Option<&[usize]>) -> Result<B::Tensor> {
        let x = self.self_attn.forward(backend, &self.layer_norm1.forward(backend, x)?, x, lens)?;
        let inner = backend.linear(&self.layer_norm2.forward(backend, &x)?, &self.fc1)?;
        let inner = backend.unary(&inner, self.activation)?;
        Ok(backend.linear_residual(&inner, &self.fc2, &x)?)
    }
}

struct CLIPAttention<B: Backend> {
    q_proj: Arc<B::Linear>,
    k_proj: Arc<B::Linear>,
    v_proj: Arc<B::Linear>,
    out_proj: Arc<B::Linear>,
    num_attention_heads: usize,
    mask: Mask,
}

impl<B: Backend> CLIPAttention<B> {
    fn load(loader: &Loader<B>, shape: &Shape) -> Result<Self> {
        let Shape { hidden_size, num_attention_heads, mask, .. } = *shape;
        let proj = |name| loader.linear(name, hidden_size, hidden_size);
        Ok(Self {
            q_proj: proj("q_proj")?,
            k_proj: proj("k_proj")?,
            v_proj: proj("v_proj")?,
            out_proj: proj("out_proj")?,
            num_attention_heads,
            mask,
        })
    }

    fn forward(
        &self,
        backend: &B,
        x: &B::Tensor,
        residual: &B::Tensor,
        lens: Option<&[usize]>,
    ) -> Result<B::Tensor> {
        let [q, k, v] =
            [&self.q_proj, &self.k_proj, &self.v_proj].map(|projection| backend.linear(x, projection));
        let (q, k, v) = (q?, k?, v?);
        let gathered = match lens {
            None => backend.attention(&q, &k, &v, self.num_attention_heads, self.mask)?,
            Some(lens) => {
                let one = |(i, &len): (usize, &usize)| {
                    let [q, k, v] = [&q, &k, &v].map(|x| backend.images(x, i, 1));
                    self.masked(backend, &q?, &k?, &v?, len)
                };
                let each = lens.iter().enumerate().map(one).collect::<Result<Vec<_>>>()?;
                backend.stack(&each.iter().collect::<Vec<_>>())?
            }
        };
        Ok(backend.linear_residual(&gathered, &self.out_proj, residual)?)
    }

    /// The attention of one sequence of which only the first `len` tokens are seen: those see what came before as ever, the
    /// padding sees all of them.
    fn masked(
        &self,
        backend: &B,
        q: &B::Tensor,
        k: &B::Tensor,
        v: &B::Tensor,
        len: usize,
    ) -> Result<B::Tensor> {
        let [_, _, tokens, features] = backend.shape(q);
        let seen = |x: &B::Tensor| -> Result<B::Tensor> {
            let mut values = backend.to_vec(x)?;
            values.truncate(len * features);
            Ok(backend.tensor(values, [1, 1, len, features])?)
        };
        let heads = self.num_attention_heads;
        let text = backend.attention(q, k, v, heads, self.mask)?;
        if len >= tokens {
            return Ok(text);
        }
        let padding = backend.attention(q, &seen(k)?, &seen(v)?, heads, Mask::None)?;
        let is_text = (0..tokens * features).map(|i| if i < len * features { 1.0 } else { 0.0 });
        let is_text = backend.tensor(is_text.collect(), [1, 1, tokens, features])?;
        Ok(backend.blend(&text, &padding, &is_text)?)
    }
}

pub(super) struct LayerNorm<B: Backend> {
    weight: B::Tensor,
    bias: B::Tensor,
    eps: f32,
}

impl<B: Backend> LayerNorm<B> {
    pub fn load(loader: &Loader<B>, name: &str, shape: &Shape) -> Result<Self> {
        Ok(Self {
            weight: loader.vector(&format!("{name}.weight"), shape.hidden_size)?,
            bias: loader.vector(&format!("{name}.bias"), shape.hidden_size)?,
            eps: shape.layer_norm_eps,
        })
    }

    pub fn forward(&self, backend: &B, x: &B::Tensor) -> Result<B::Tensor> {
        Ok(backend.layer_norm(x, &self.weight, &self.bias, self.eps)?)
    }
}

/// `hidden_act` of the tower that `what` names.
pub(super) fn activation(what: &str, hidden_act: &str) -> Result<Unary> {
    match hidden_act {
        "quick_gelu" => Ok(Unary::QuickGelu),
        "gelu" => Ok(Unary::Gelu),
        other => Err(Error::Unsupported(format!(
            "{what}: 'hidden_act' is '{other}'; accepted are 'quick_gelu' and 'gelu'"
        ))),
    }
}
