//! The UNet and its blocks against diffusers, for tiny random models.

mod random_weights;

use random_weights::{Change, Golden, relative_error};
use reverie_kernels::{Backend, Unary, cpu::CpuBackend};
use reverie_models::{
    Error, LayerCache, Loader, OneOrMany, UNet2DConditionConfig,
    unet::{
        BlockConfig, Conditions, Context, DownBlock2D, ResnetBlock2D, ResnetConfig, Transformer2DModel,
        TransformerConfig, UNet2DConditionModel, UNetMidBlock2DCrossAttn, UpBlock2D,
    },
};

type Case = Golden<UNet2DConditionConfig>;
type Tensor = <CpuBackend as Backend>::Tensor;

/// Sums in another order than PyTorch's, and Winograd's convolutions; what is measured is below 1e-5.
const LIMIT: f32 = 3e-5;

/// A model with the inputs of its golden.
struct Model {
    golden: Case,
    backend: CpuBackend,
    unet: UNet2DConditionModel<CpuBackend>,
}

impl Model {
    fn open(name: &str) -> Self {
        let golden = Case::open("unet", name);
        let backend = CpuBackend::new(2);
        let cache = LayerCache::default();
        let loader = Loader::new(&backend, golden.weights.clone(), &cache);
        let unet = UNet2DConditionModel::load(&loader, &golden.config).unwrap();
        Self { golden, backend, unet }
    }

    /// The UNet over the golden's inputs, or over one entry of their batch.
    fn run(&self, entry: Option<usize>) -> Vec<f32> {
        let pick = |name: &str| {
            let all = self.golden.tensor(&self.backend, name);
            match entry {
                Some(i) => self.backend.images(&all, i, 1).unwrap(),
                None => all,
            }
        };
        let slice = |name: &str| {
            let all = self.golden.values(name);
            let len = all.len() / 2;
            entry.map_or(all, |i| &all[i * len..][..len]).to_vec()
        };
        let optional = |name: &str| self.golden.has(name).then(|| pick(name));
        let (timestep_cond, text_embeds) = (optional("timestep_cond"), optional("text_embeds"));
        let time_ids = self.golden.has("time_ids").then(|| slice("time_ids"));
        let conditions = Conditions {
            timestep_cond: timestep_cond.as_ref(),
            text_embeds: text_embeds.as_ref(),
            time_ids: time_ids.as_deref(),
        };
        let (sample, prompt) = (pick("sample"), pick("encoder_hidden_states"));
        let out =
            self.unet.forward(&self.backend, &sample, &slice("timesteps"), &prompt, &conditions).unwrap();
        self.backend.to_vec(&out).unwrap()
    }
}

#[test]
fn whole_models_match_diffusers() {
    for name in ["sd15", "sd15_odd", "lcm", "sd2_turbo", "sdxl", "inpaint", "no_mid_block"] {
        let model = Model::open(name);
        print!("{name:14} ");
        model.golden.check("out", &model.run(None), LIMIT);
    }
}

#[test]
fn entries_of_a_batch_do_not_see_each_other() {
    for name in ["sd15_odd", "lcm", "sdxl"] {
        let model = Model::open(name);
        let both = model.run(None);
        let alone = [model.run(Some(0)), model.run(Some(1))].concat();
        let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
        let error = relative_error(&both, &alone);
        assert!(
            bits(&both) == bits(&alone),
            "{name}: an entry alone differs from itself in a batch by {error:.1e}"
        );
    }
}

/// The parts of a model, one at a time, with what diffusers gave to each.
struct Parts {
    golden: Case,
    backend: CpuBackend,
    cache: LayerCache<CpuBackend>,
}

impl Parts {
    fn open(name: &str) -> Self {
        Self { golden: Case::open("unet", name), backend: CpuBackend::new(2), cache: LayerCache::default() }
    }

    fn loader(&self, part: &str) -> Loader<'_, CpuBackend> {
        Loader::new(&self.backend, self.golden.weights.clone(), &self.cache).sub(part)
    }

    fn input(&self, part: &str, name: &str) -> Tensor {
        self.golden.tensor(&self.backend, &format!("{part}/{name}"))
    }

    /// `hidden_states` and SiLU of `temb`.
    fn inputs(&self, part: &str) -> (Tensor, Tensor) {
        let temb = self.backend.unary(&self.input(part, "temb"), Unary::Silu).unwrap();
        (self.input(part, "hidden_states"), temb)
    }

    fn check(&self, part: &str, out: &Tensor) {
        self.golden.check(&format!("{part}/out"), &self.backend.to_vec(out).unwrap(), LIMIT);
    }

    fn resnet(&self, in_channels: usize, out_channels: usize) -> ResnetConfig {
        let temb_channels = Some(4 * self.golden.config.block_out_channels[0]);
        ResnetConfig { in_channels, out_channels, temb_channels, groups: 8, eps: 1e-5, scale: 1.0 }
    }

    fn check_resnet(&self, part: &str, in_channels: usize, out_channels: usize) {
        let (x, temb) = self.inputs(part);
        let block = ResnetBlock2D::load(&self.loader(part), &self.resnet(in_channels, out_channels)).unwrap();
        self.check(part, &block.forward(&self.backend, x, Some(&temb)).unwrap());
    }

    fn check_transformer(&self, part: &str, config: &TransformerConfig) {
        let (x, prompt) = (self.input(part, "hidden_states"), self.input(part, "encoder_hidden_states"));
        let block = Transformer2DModel::load(&self.loader(part), config).unwrap();
        self.check(part, &block.forward(&self.backend, x, &prompt).unwrap());
    }

    /// A stage without cross-attention is given no prompt: the model's stands in.
    fn prompt(&self, part: &str) -> Tensor {
        let name = format!("{part}/encoder_hidden_states");
        self.golden
            .tensor(&self.backend, if self.golden.has(&name) { &name } else { "encoder_hidden_states" })
    }

    fn check_down(&self, part: &str, config: &BlockConfig) {
        let ((x, temb_act), prompt) = (self.inputs(part), self.prompt(part));
        let context = Context { backend: &self.backend, temb_act: &temb_act, encoder_hidden_states: &prompt };
        let mut skips = Vec::new();
        let block = DownBlock2D::load(&self.loader(part), config).unwrap();
        self.check(part, &block.forward(&context, x, &mut skips).unwrap());
        assert_eq!(skips.len(), config.resnets.len() + usize::from(config.resample), "{part}");
    }

    fn check_up(&self, part: &str, config: &BlockConfig) {
        let ((x, temb_act), prompt) = (self.inputs(part), self.prompt(part));
        let context = Context { backend: &self.backend, temb_act: &temb_act, encoder_hidden_states: &prompt };
        let skip = |i| self.input(part, &format!("skip.{i}"));
        let mut skips: Vec<Tensor> = (0..config.resnets.len()).map(skip).collect();
        let block = UpBlock2D::load(&self.loader(part), config).unwrap();
        self.check(part, &block.forward(&context, x, &mut skips).unwrap());
        assert!(skips.is_empty(), "{part}");
    }
}

fn transformer(channels: usize, num_layers: usize, heads: usize) -> TransformerConfig {
    TransformerConfig {
        channels,
        num_layers,
        num_attention_heads: heads,
        cross_attention_dim: 32,
        norm_num_groups: 8,
    }
}

#[test]
fn resnet_blocks_match_diffusers() {
    let parts = Parts::open("sd15");
    parts.check_resnet("down_blocks.0.resnets.0", 32, 32);
    parts.check_resnet("down_blocks.1.resnets.0", 32, 64);
}

#[test]
fn transformers_match_diffusers() {
    Parts::open("sd15").check_transformer("down_blocks.0.attentions.0", &transformer(32, 1, 4));
    Parts::open("sd2_turbo").check_transformer("down_blocks.0.attentions.0", &transformer(32, 1, 2));
    Parts::open("sdxl").check_transformer("down_blocks.1.attentions.0", &transformer(64, 2, 4));
}

#[test]
fn stages_match_diffusers() {
    let parts = Parts::open("sd15");
    let stage = |inputs: &[usize], out, attends: bool, resample| BlockConfig {
        resnets: inputs.iter().map(|&input| parts.resnet(input, out)).collect(),
        transformer: attends.then(|| transformer(out, 1, 4)),
        resample,
    };
    parts.check_down("down_blocks.1", &stage(&[32], 64, true, true));
    parts.check_down("down_blocks.2", &stage(&[64], 64, false, false));
    parts.check_up("up_blocks.0", &stage(&[128, 128], 64, false, true));
    parts.check_up("up_blocks.1", &stage(&[128, 96], 64, true, true));
    parts.check_up("up_blocks.2", &stage(&[96, 64], 32, true, false));

    let ((x, temb_act), prompt) = (parts.inputs("mid_block"), parts.prompt("mid_block"));
    let context = Context { backend: &parts.backend, temb_act: &temb_act, encoder_hidden_states: &prompt };
    let (loader, resnet) = (parts.loader("mid_block"), parts.resnet(64, 64));
    let block = UNetMidBlock2DCrossAttn::load(&loader, &resnet, &transformer(64, 1, 4)).unwrap();
    parts.check("mid_block", &block.forward(&context, x).unwrap());

    let parts = Parts::open("sdxl");
    let resnets = vec![parts.resnet(128, 64), parts.resnet(128, 64)];
    let stage = BlockConfig { resnets, transformer: Some(transformer(64, 3, 8)), resample: true };
    parts.check_up("up_blocks.0", &stage);
}

#[test]
fn configurations_that_are_not_supported_are_named() {
    let golden = Case::open("unet", "sd2_turbo");
    let backend = CpuBackend::new(1);
    let cache = LayerCache::default();
    let refused = |change: &dyn Fn(&mut UNet2DConditionConfig)| {
        let mut config = golden.config.clone();
        change(&mut config);
        match UNet2DConditionModel::load(&Loader::new(&backend, golden.weights.clone(), &cache), &config) {
            Err(Error::Unsupported(message)) => message,
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("is loaded: {config:?}"),
        }
    };
    let cases: &[Change<UNet2DConditionConfig>] = &[
        ("down_block_types", &|c| c.down_block_types[0] = "AttnDownBlock2D".into()),
        ("up_block_types", &|c| c.up_block_types[0] = "DownBlock2D".into()),
        ("up_block_types", &|c| c.up_block_types.truncate(1)),
        ("mid_block_type", &|c| c.mid_block_type = Some("UNetMidBlock2D".into())),
        ("act_fn", &|c| c.act_fn = "gelu".into()),
        ("center_input_sample", &|c| c.center_input_sample = true),
        ("downsample_padding", &|c| c.downsample_padding = 0),
        ("mid_block_scale_factor", &|c| c.mid_block_scale_factor = 1.4),
        ("conv_in_kernel", &|c| c.conv_in_kernel = 2),
        ("norm_num_groups", &|c| c.norm_num_groups = Some(7)),
        ("attention_head_dim", &|c| c.attention_head_dim = OneOrMany::One(5)),
        ("attention_head_dim", &|c| c.attention_head_dim = OneOrMany::One(0)),
        ("cross_attention_dim", &|c| c.cross_attention_dim = OneOrMany::Many(vec![32, 64])),
        ("transformer_layers_per_block", &|c| {
            c.transformer_layers_per_block =
                OneOrMany::Many(vec![OneOrMany::Many(vec![1]), OneOrMany::One(1)]);
        }),
        ("addition_embed_type", &|c| c.addition_embed_type = Some("image".into())),
        ("addition_time_embed_dim", &|c| c.addition_embed_type = Some("text_time".into())),
    ];
    for (key, change) in cases {
        let message = refused(change);
        assert!(message.contains(key) && message.contains("accepted"), "{message}");
    }
}

#[test]
fn tensors_of_another_model_are_named() {
    let golden = Case::open("unet", "sd2_turbo");
    let backend = CpuBackend::new(1);
    let cache = LayerCache::default();
    let mut config = golden.config.clone();
    config.in_channels = 9;
    let error =
        UNet2DConditionModel::load(&Loader::new(&backend, golden.weights.clone(), &cache), &config).err();
    let message = error.unwrap().to_string();
    assert!(message.contains("conv_in.weight") && message.contains("[32, 9, 3, 3]"), "{message}");

    let without = golden.weights.renamed(|name| (!name.starts_with("mid_block")).then(|| name.to_owned()));
    let cache = LayerCache::default();
    let error = UNet2DConditionModel::load(&Loader::new(&backend, without, &cache), &golden.config).err();
    assert!(matches!(error, Some(Error::Missing { name, .. }) if name.starts_with("mid_block.")));
}

#[test]
fn inputs_that_do_not_fit_are_refused() {
    let Model { golden, backend, unet } = Model::open("lcm");
    let sample = golden.tensor(&backend, "sample");
    let prompt = golden.tensor(&backend, "encoder_hidden_states");
    let narrow = backend.tensor(vec![0.0; 2 * 11 * 16], [2, 1, 11, 16]).unwrap();
    let single = backend.images(&prompt, 0, 1).unwrap();
    let wide = backend.tensor(vec![0.0; 2 * 5 * 64], [2, 5, 8, 8]).unwrap();
    let none = Conditions::default();
    let condition = Conditions { timestep_cond: Some(&narrow), ..Conditions::default() };
    for (what, result) in [
        ("5 channels", unet.forward(&backend, &wide, &[1.0, 2.0], &prompt, &none)),
        ("1 timesteps", unet.forward(&backend, &sample, &[1.0], &prompt, &none)),
        ("encoder_hidden_states", unet.forward(&backend, &sample, &[1.0, 2.0], &narrow, &none)),
        ("encoder_hidden_states", unet.forward(&backend, &sample, &[1.0, 2.0], &single, &none)),
        ("timestep_cond", unet.forward(&backend, &sample, &[1.0, 2.0], &prompt, &condition)),
    ] {
        match result {
            Err(Error::Invalid(message)) => assert!(message.contains(what), "{message}"),
            Err(other) => panic!("{what}: {other}"),
            Ok(_) => panic!("{what}: is taken"),
        }
    }
    let Model { golden, backend, unet } = Model::open("sdxl");
    let sample = golden.tensor(&backend, "sample");
    let prompt = golden.tensor(&backend, "encoder_hidden_states");
    let pooled = golden.tensor(&backend, "text_embeds");
    let ids = [1.0; 11];
    let odd = Conditions { text_embeds: Some(&pooled), time_ids: Some(&ids), ..Conditions::default() };
    for conditions in [Conditions::default(), odd] {
        let result = unet.forward(&backend, &sample, &[1.0, 2.0], &prompt, &conditions);
        assert!(matches!(result, Err(Error::Invalid(message)) if message.contains("time_ids")));
    }
}
