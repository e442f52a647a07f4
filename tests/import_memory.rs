//! An import holds the result and some pieces of a tensor, not the model nor a whole tensor as f32;
//! and one that fails leaves neither a new file nor a changed old one.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use lowrank::Error;
use lowrank::archive::{HEADER_LEN, Header, Output, schema, to_buffer, write};
use lowrank::file::FileError;
use lowrank::import::{BaseOptions, Pieces, Source, Tensor, TextParts, base_to_buffer, write_base};
use lowrank::model::llama::{Config, Llama, RopeScaling, Site};
use lowrank::quant::{Format, OwnedMatrix};

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Counts the bytes that are allocated, and the most there have been.
struct Counting;

fn grow(by: usize) {
    let now = NOW.fetch_add(by, Ordering::Relaxed) + by;
    PEAK.fetch_max(now, Ordering::Relaxed);
}

// SAFETY: every call goes to the system allocator unchanged. A reallocation counts both blocks, as
// if it always moved.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        grow(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        grow(size);
        NOW.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The counters are the process's: one test at a time.
static TURN: Mutex<()> = Mutex::new(());

const CONFIG: Config = Config {
    vocab: 2000,
    dim: 256,
    layers: 12,
    heads: 8,
    kv_heads: 4,
    head_dim: 32,
    hidden: 704,
    context: 128,
    rope_theta: 10_000.0,
    rope_scaling: RopeScaling::None,
    norm_epsilon: 1e-5,
};

/// A model whose tensors are made when they are asked for; one of them may hold a NaN.
struct Synthetic {
    config: Config,
    damaged: &'static str,
    /// Are tensors handed out whole, not in pieces?
    whole: bool,
}

impl Synthetic {
    fn new(config: Config) -> Self {
        Self { config, damaged: "", whole: false }
    }

    /// The values of a tensor from `first` on.
    fn fill(&self, name: &str, first: usize, out: &mut [f32]) {
        for (i, out) in (first..).zip(out) {
            let is_damaged = name == self.damaged && i == 17;
            *out = if is_damaged { f32::NAN } else { (i as f32 * 0.37).sin() + 0.01 };
        }
    }

    fn shape(&self, name: &str) -> Option<Vec<usize>> {
        let numbers = 0..self.config.sites() as u32;
        let mut sites = numbers.filter_map(|number| Site::from_number(number, self.config.layers));
        let matrix = sites.find(|site| {
            name.strip_suffix(".weight").is_some_and(|module| module == site.to_string())
        });
        let norm = name.contains("norm").then(|| vec![self.config.dim]);
        matrix.map(|site| site.shape(&self.config)).map(|(rows, cols)| vec![rows, cols]).or(norm)
    }
}

impl Source for Synthetic {
    fn path(&self) -> &Path {
        Path::new("synthetic")
    }

    fn name(&self) -> String {
        "synthetic".into()
    }

    fn config(&self) -> Result<Config, FileError> {
        Ok(self.config)
    }

    fn text(&self) -> Result<TextParts, FileError> {
        Ok(TextParts::default())
    }

    fn tensor(&self, name: &str) -> Result<Option<Tensor>, FileError> {
        let Some(shape) = self.shape(name) else { return Ok(None) };
        let mut values = vec![0.0; shape.iter().product()];
        self.fill(name, 0, &mut values);
        Ok(Some(Tensor::Dense { shape, values }))
    }

    fn pieces(&self, name: &str) -> Result<Option<Pieces<'_>>, FileError> {
        if self.whole {
            return Ok(None);
        }
        let (name, shape) = (name.to_owned(), self.shape(name));
        Ok(shape.map(|shape| Pieces {
            shape,
            read: Box::new(move |first, out: &mut [f32]| self.fill(&name, first, out)),
        }))
    }

    fn names(&self) -> Vec<String> {
        let layers = self.config.layers;
        let matrices = (0..self.config.sites() as u32)
            .filter_map(|number| Site::from_number(number, layers))
            .map(|s| format!("{s}.weight"));
        let norms = (0..layers).flat_map(|i| {
            ["input", "post_attention"]
                .map(|part| format!("model.layers.{i}.{part}_layernorm.weight"))
        });
        matrices.chain(norms).chain(["model.norm.weight".to_owned()]).collect()
    }
}

fn options(embedding: Format) -> BaseOptions {
    BaseOptions { embedding, allow_missing_tokenizer: true, ..BaseOptions::default() }
}

/// The most bytes of heap that an import takes at a time, and the bytes of its result.
fn peak_and_result(source: &Synthetic, embedding: Format) -> (usize, usize) {
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("base.lrk");
    let before = NOW.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let mut steps = 0;
    write_base(source, &options(embedding), &output, &mut |_| steps += 1).unwrap();
    let peak = PEAK.load(Ordering::Relaxed) - before;
    assert_eq!(steps, source.names().len());
    let archive = lowrank::archive::ArchiveFile::open(&output).unwrap();
    Llama::verify(&archive).unwrap();
    (peak, archive.len())
}

#[test]
fn the_peak_is_the_result_and_a_piece_of_a_tensor() {
    let _turn = TURN.lock();
    // Llama 3.2 1B, an eighth as wide: the embedding is a fifth of the weights.
    let wide = Config {
        vocab: 16_032,
        dim: 256,
        layers: 16,
        heads: 8,
        kv_heads: 2,
        head_dim: 32,
        hidden: 1024,
        ..CONFIG
    };
    for (config, formats) in
        [(CONFIG, &[Format::Int8, Format::Nf4, Format::F16][..]), (wide, &[Format::Int8])]
    {
        for &embedding in formats {
            let (peak, result) = peak_and_result(&Synthetic::new(config), embedding);
            let table = config.vocab * config.dim * 4;
            println!("{embedding:?}: peak {peak}, result {result}, embedding as f32 {table}");
            assert!(peak < result + result / 50 + (1 << 20), "peak {peak}, result {result}");
        }
    }
}

#[test]
fn a_source_without_pieces_takes_two_tensors_more() {
    let _turn = TURN.lock();
    let source = Synthetic { whole: true, ..Synthetic::new(CONFIG) };
    let two_largest = 2 * CONFIG.vocab * CONFIG.dim * 4;
    let (peak, result) = peak_and_result(&source, Format::Int8);
    assert!(peak < result + two_largest + (1 << 20), "peak {peak}, result {result}");
    let pieces =
        base_to_buffer(&Synthetic::new(CONFIG), &options(Format::Int8), &mut |_| {}).unwrap();
    let whole = base_to_buffer(&source, &options(Format::Int8), &mut |_| {}).unwrap();
    assert!(*pieces == *whole, "pieces or not, the bytes are the same");
}

/// Small enough to be written once for every byte at which writing may fail.
const SMALL: Config = Config {
    vocab: 16,
    dim: 64,
    layers: 1,
    heads: 2,
    kv_heads: 1,
    head_dim: 32,
    hidden: 64,
    ..CONFIG
};

/// Takes `room` bytes, then nothing more.
struct Full {
    room: usize,
    written: usize,
    has_header: bool,
}

impl Output for Full {
    fn append(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.written += bytes.len();
        if self.written > self.room { Err(Error::Write) } else { Ok(()) }
    }

    fn set_header(&mut self, _: &[u8; HEADER_LEN]) -> Result<(), Error> {
        self.has_header = true;
        Ok(())
    }
}

#[test]
fn a_full_output_never_gets_a_header() {
    let _turn = TURN.lock();
    let values: Vec<f32> = (0..64 * 64).map(|i| (i as f32 * 0.37).sin()).collect();
    let matrix = |site: Site| {
        let (rows, cols) = site.shape(&SMALL);
        OwnedMatrix::quantize(Format::Nf4, 64, rows, cols, &values[..rows * cols]).unwrap()
    };
    let sites = [
        Site::Q(0),
        Site::K(0),
        Site::V(0),
        Site::O(0),
        Site::Gate(0),
        Site::Up(0),
        Site::Down(0),
        Site::Embedding,
    ];
    let matrices = sites.map(matrix);
    let linear = |i: usize| schema::Linear { weight: matrices[i].view().into(), bias: &[] };
    let norm = [1.0; 64];
    let [q, k, v, o, gate, up, down] = [0, 1, 2, 3, 4, 5, 6].map(linear);
    let layer = lowrank::model::llama::schema::LlamaLayer {
        attention_norm: &norm,
        q,
        k,
        v,
        o,
        q_norm: &[],
        k_norm: &[],
        feed_forward_norm: &norm,
        gate,
        up,
        down,
    };
    let root = lowrank::model::llama::schema::Llama {
        name: "small",
        config: SMALL.to_schema(),
        text: schema::Text::default(),
        embedding: matrices[7].view().into(),
        layers: &[layer],
        norm: &norm,
        head: None,
    };
    let whole = to_buffer(&root, 1).unwrap();
    Llama::verify(&whole).unwrap();
    for room in 0..=whole.len() {
        let mut output = Full { room, written: 0, has_header: false };
        let result = write(&root, 1, &mut output);
        assert_eq!(output.has_header, room == whole.len(), "{room}");
        match result {
            Ok(header) => assert_eq!((room, header), (whole.len(), Header::parse(&whole).unwrap())),
            Err(error) => assert_eq!(error, Error::Write, "{room}"),
        }
    }
}

#[test]
fn a_failed_import_leaves_no_file_and_keeps_an_old_one() {
    let _turn = TURN.lock();
    let place = tempfile::tempdir().unwrap();
    let output = place.path().join("base.lrk");
    let good = Synthetic::new(SMALL);
    let files = || fs::read_dir(place.path()).unwrap().count();
    // Early, in the middle, last; matrices and a norm.
    let damaged = [
        "model.layers.0.self_attn.q_proj.weight",
        "model.layers.0.mlp.down_proj.weight",
        "model.norm.weight",
        "lm_head.weight",
    ];
    for existing in [false, true] {
        if existing {
            write_base(&good, &options(Format::Int8), &output, &mut |_| {}).unwrap();
        }
        let before = fs::read(&output).ok();
        for damaged in damaged {
            let error = write_base(
                &Synthetic { damaged, ..Synthetic::new(SMALL) },
                &options(Format::Int8),
                &output,
                &mut |_| {},
            )
            .unwrap_err();
            let error = error.to_string();
            assert!(error.contains(damaged) && error.contains("value 17 is NaN"), "{error}");
            assert_eq!(fs::read(&output).ok(), before);
            assert_eq!(files(), usize::from(existing));
        }
    }
    let written = fs::read(&output).unwrap();
    assert_eq!(written, *base_to_buffer(&good, &options(Format::Int8), &mut |_| {}).unwrap());
    // Nowhere to write: the error names the output.
    let nowhere = place.path().join("absent").join("base.lrk");
    let error =
        write_base(&good, &options(Format::Int8), &nowhere, &mut |_| {}).unwrap_err().to_string();
    assert!(
        error.contains(nowhere.to_str().unwrap()) && error.contains("there is no folder"),
        "{error}"
    );
    let error = write_base(&good, &options(Format::Int8), place.path(), &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains(place.path().to_str().unwrap()), "{error}");
    assert_eq!((files(), fs::read(&output).unwrap()), (1, written));
}

#[test]
fn shapes_that_are_too_large_for_memory_are_refused_before_they_are_made() {
    let _turn = TURN.lock();
    struct Liar(OwnedMatrix);
    impl Source for Liar {
        fn path(&self) -> &Path {
            Path::new("liar")
        }
        fn name(&self) -> String {
            String::new()
        }
        fn config(&self) -> Result<Config, FileError> {
            Ok(Config {
                dim: 1 << 17,
                vocab: 1 << 24,
                hidden: 1 << 20,
                heads: 4096,
                kv_heads: 4096,
                head_dim: 4096,
                ..CONFIG
            })
        }
        fn text(&self) -> Result<TextParts, FileError> {
            Ok(TextParts::default())
        }
        fn tensor(&self, _: &str) -> Result<Option<Tensor>, FileError> {
            Ok(Some(Tensor::Packed(self.0.clone())))
        }
        fn names(&self) -> Vec<String> {
            vec!["model.layers.0.self_attn.q_proj.weight".into()]
        }
    }
    let liar = Liar(OwnedMatrix::quantize(Format::Nf4, 64, 1, 64, &[1.0; 64]).unwrap());
    let error = base_to_buffer(&liar, &options(Format::F32), &mut |_| {}).unwrap_err().to_string();
    assert!(error.contains("[1, 64]") && error.contains("[16777216, 131072]"), "{error}");
}
