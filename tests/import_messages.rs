//! What people have on their disks: files that are something else are named with what to do, models
//! without a prefix and adapters with their names left in are read, and no path of somebody's disk
//! goes into an archive.

mod model_folder;
mod peft_folder;

use std::fs;
use std::path::Path;

use lowrank::archive::ArchiveFile;
use lowrank::import::{
    AdapterOptions, BaseOptions, Gguf, HuggingFace, HuggingFaceBert, PyTorch, base_to_buffer,
    import_gguf_adapter, import_peft,
};
use lowrank::model::llama::{Llama, Site};
use lowrank::quant::Format;
use model_folder::{Folder, exact, import, in_format};
use serde_json::json;

const LFS: &[u8] = b"version https://git-lfs.github.com/spec/v1\noid sha256:4665\nsize 988097824\n";

fn says(text: &str, parts: &[&str]) {
    assert!(parts.iter().all(|part| text.contains(part)), "{text}\n{parts:?}");
    assert!(!text.contains('\n'), "{text}");
}

fn tiny() -> lowrank::archive::Buffer {
    peft_folder::base("tiny-llama", Format::F32, Format::F32)
}

#[test]
fn a_git_lfs_pointer_is_named_whatever_file_it_stands_for() {
    let folder = Folder::golden("tiny-llama");
    let every = [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "chat_template.jinja",
    ];
    for name in every {
        let place = tempfile::tempdir().unwrap();
        folder.write(place.path());
        // A tokenizer must be there for its template to be asked for.
        let tokenizer = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}});
        fs::write(place.path().join("tokenizer.json"), tokenizer.to_string()).unwrap();
        fs::write(place.path().join(name), LFS).unwrap();
        let error = import(place.path(), &exact()).unwrap_err();
        says(&error, &[name, "Git LFS pointer", "git lfs pull"]);
    }
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.safetensors.index.json");
    folder.write_settings(place.path());
    fs::write(&file, LFS).unwrap();
    let error = HuggingFace::open(place.path()).unwrap_err().to_string();
    says(&error, &["model.safetensors.index.json", "Git LFS"]);

    let file = place.path().join("pointer");
    fs::write(&file, LFS).unwrap();
    says(&Gguf::open(&file).unwrap_err().to_string(), &["pointer", "Git LFS"]);
    says(&ArchiveFile::open(&file).unwrap_err().to_string(), &["pointer", "Git LFS"]);
    says(&ArchiveFile::load(&file).unwrap_err().to_string(), &["pointer", "Git LFS"]);
    fs::write(place.path().join("config.json"), LFS).unwrap();
    for error in
        [HuggingFaceBert::open(place.path()).unwrap_err(), PyTorch::open(place.path()).unwrap_err()]
    {
        says(&error.to_string(), &["config.json", "Git LFS"]);
    }
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let options = AdapterOptions::default();
    let error = import_gguf_adapter(&file, &model, &options).unwrap_err().to_string();
    says(&error, &["pointer", "Git LFS"]);
    let lora = peft_folder::Folder::golden("tiny-llama/adapters/lora");
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let place = tempfile::tempdir().unwrap();
        lora.write(place.path());
        fs::write(place.path().join(name), LFS).unwrap();
        let error = import_peft(place.path(), &model, &options).unwrap_err().to_string();
        says(&error, &[name, "Git LFS"]);
    }
}

#[test]
fn pages_pickles_and_safetensors_in_the_wrong_place_are_named() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("model.gguf");
    for (bytes, parts) in [
        (&b"<!DOCTYPE html><html>"[..], ["web page", "download"]),
        (b"PK\x03\x04 archive/data.pkl", ["pickle", "safetensors"]),
        (b"\x80\x02}q\x00.", ["pickle", "safetensors"]),
        (b"\x40\0\0\0\0\0\0\0{\"__metadata__\":{}}", ["safetensors", "folder"]),
    ] {
        fs::write(&file, bytes).unwrap();
        says(&Gguf::open(&file).unwrap_err().to_string(), &parts);
    }
}

#[test]
fn weights_in_pickles_say_how_to_convert_them() {
    let folder = Folder::golden("tiny-llama");
    for name in ["pytorch_model.bin", "pytorch_model-00001-of-00002.bin", "model.pt", "model.pth"] {
        let place = tempfile::tempdir().unwrap();
        folder.write_settings(place.path());
        fs::write(place.path().join("training_args.bin"), b"PK\x03\x04").unwrap();
        fs::write(place.path().join(name), b"PK\x03\x04").unwrap();
        let error = HuggingFace::open(place.path()).unwrap_err().to_string();
        says(&error, &[name, "save_pretrained", "weights_only=True", "model.safetensors"]);
    }
    let place = tempfile::tempdir().unwrap();
    folder.write_settings(place.path());
    let error = HuggingFace::open(place.path()).unwrap_err().to_string();
    says(&error, &["neither model.safetensors nor"]);
    fs::write(place.path().join("q4.gguf"), b"GGUF").unwrap();
    let error = HuggingFace::open(place.path()).unwrap_err().to_string();
    says(&error, &["q4.gguf", "not its folder"]);

    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let place = tempfile::tempdir().unwrap();
    fs::write(place.path().join("adapter_config.json"), "{\"peft_type\":\"LORA\"}").unwrap();
    fs::write(place.path().join("adapter_model.bin"), b"PK\x03\x04").unwrap();
    let error =
        import_peft(place.path(), &model, &AdapterOptions::default()).unwrap_err().to_string();
    says(&error, &["adapter_model.bin", "weights_only=True", "adapter_model.safetensors"]);
}

#[test]
fn adapters_of_mlx_are_named_with_what_to_do() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let place = tempfile::tempdir().unwrap();
    let settings = json!({"fine_tune_type": "lora", "num_layers": 2, "lora_parameters": {"rank": 8, "scale": 20.0}});
    fs::write(place.path().join("adapter_config.json"), settings.to_string()).unwrap();
    fs::write(place.path().join("adapters.safetensors"), b"").unwrap();
    let import = |place: &Path| {
        import_peft(place, &model, &AdapterOptions::default()).unwrap_err().to_string()
    };
    says(&import(place.path()), &["adapters.safetensors", "MLX", "transposed", "lora_alpha"]);
    // The same tensors under PEFT's name of the file.
    let mut folder = peft_folder::Folder::golden("tiny-llama/adapters/lora");
    let tensors = std::mem::take(&mut folder.tensors);
    folder.tensors = tensors
        .into_iter()
        .map(|(name, tensor)| {
            let name = name.replace("base_model.model.", "");
            (name.replace("lora_A.weight", "lora_a").replace("lora_B.weight", "lora_b"), tensor)
        })
        .collect();
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    says(&import(place.path()), &["lora_a", "MLX", "transposed"]);
}

#[test]
fn adapters_in_folders_of_their_names_are_listed() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    let place = tempfile::tempdir().unwrap();
    for name in ["french", "formal"] {
        let folder = place.path().join(name);
        fs::create_dir(&folder).unwrap();
        peft_folder::Folder::golden("tiny-llama/adapters/lora").write(&folder);
    }
    let error =
        import_peft(place.path(), &model, &AdapterOptions::default()).unwrap_err().to_string();
    says(&error, &["formal, french"]);
}

#[test]
fn an_adapters_name_may_be_left_in_and_several_are_refused_by_name() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    for adapter in ["lora", "dora", "embed_head", "lora_bias"] {
        let folder = peft_folder::Folder::golden(&format!("tiny-llama/adapters/{adapter}"));
        let plain = folder.import(&model).unwrap().targets;
        let with = |name: &str, given: &str| match name.rsplit_once('.').unwrap() {
            (path, last) if last.starts_with("lora_") => format!("{path}.{last}.{given}"),
            (path, last) if path.ends_with("base_layer") => format!("{path}.{last}"),
            (path, last) => format!("{path}.{given}.{last}"),
        };
        let mut named = folder.clone();
        named.tensors =
            folder.tensors.iter().map(|(name, t)| (with(name, "style_2"), t.clone())).collect();
        assert_eq!(named.import(&model).unwrap().targets, plain, "{adapter}");
        let second = folder.tensors.iter().map(|(name, t)| (with(name, "formal"), t.clone()));
        named.tensors.extend(second);
        says(&named.import(&model).unwrap_err(), &["several adapters, formal, style_2"]);
    }
}

/// The folder without `model.` in front of its names, as Qwen3-Embedding and whatever was saved
/// without its head have them.
fn without_prefix(folder: &Folder) -> Folder {
    let tensors = folder.tensors.iter().map(|(name, tensor)| {
        (name.strip_prefix("model.").unwrap_or(name).to_owned(), tensor.clone())
    });
    Folder { tensors: tensors.collect(), ..folder.clone() }
}

/// The same model, whatever the folder was called.
fn same(found: &[u8], expected: &[u8]) {
    let [found, expected] = [found, expected].map(|archive| Llama::open(archive).unwrap());
    assert_eq!(found.fingerprint(), expected.fingerprint());
}

#[test]
fn models_without_the_prefix_are_the_same_models() {
    for golden in ["tiny-llama", "tiny-llama-bnb"] {
        let folder = Folder::golden(golden);
        let options = in_format(Format::Nf4);
        let expected = folder.import(&options).unwrap();
        let found = without_prefix(&folder).import(&options).unwrap();
        same(&found, &expected);
    }
    // Without a head, and called what transformers calls such models.
    let mut folder = Folder::golden("tiny-llama");
    folder.tensors.remove("lm_head.weight");
    folder.config["tie_word_embeddings"] = json!(true);
    let expected = folder.import(&exact()).unwrap();
    folder.config["architectures"] = json!(["LlamaModel"]);
    same(&without_prefix(&folder).import(&exact()).unwrap(), &expected);
    // A tensor that is missing is missing still.
    let mut folder = without_prefix(&folder);
    folder.tensors.remove("norm.weight");
    says(&folder.import(&exact()).unwrap_err(), &["norm.weight", "missing"]);
}

#[test]
fn adapters_of_models_without_the_prefix_find_their_places() {
    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    for adapter in ["lora", "dora"] {
        let folder = peft_folder::Folder::golden(&format!("tiny-llama/adapters/{adapter}"));
        let mut bare = folder.clone();
        bare.tensors = folder
            .tensors
            .iter()
            .map(|(name, tensor)| (name.replacen("model.model.", "model.", 1), tensor.clone()))
            .collect();
        assert!(bare.tensors.keys().all(|name| name.starts_with("base_model.model.layers")));
        let (bare, plain) = (bare.import(&model).unwrap(), folder.import(&model).unwrap());
        assert_eq!(bare.targets, plain.targets);
    }
}

#[test]
fn no_path_of_somebodys_disk_goes_into_an_archive() {
    for (stated, expected) in [
        ("/home/me/secret/qwen-tuned", "qwen-tuned"),
        ("/home/me/secret/qwen-tuned/", "qwen-tuned"),
        ("C:\\Users\\me\\qwen-tuned", "qwen-tuned"),
        ("./runs/me/qwen-tuned", "qwen-tuned"),
        ("~/qwen-tuned", "qwen-tuned"),
        ("Qwen/Qwen2.5-0.5B", "Qwen2.5-0.5B"),
    ] {
        let mut folder = Folder::golden("tiny-llama");
        folder.config["_name_or_path"] = json!(stated);
        let archive = folder.import(&exact()).unwrap();
        assert_eq!(Llama::open(&archive).unwrap().name(), expected);
    }
    // Without a name that says something: the folder's, also where the path does not end in it.
    let place = tempfile::tempdir().unwrap();
    let inner = place.path().join("my-model");
    fs::create_dir_all(inner.join("sub")).unwrap();
    let mut folder = Folder::golden("tiny-llama");
    folder.config["_name_or_path"] = json!("..");
    folder.write(&inner);
    for path in [inner.clone(), inner.join("sub/..")] {
        let archive = import(&path, &exact()).unwrap();
        assert_eq!(Llama::open(&archive).unwrap().name(), "my-model");
    }

    let archive = tiny();
    let model = Llama::open(&archive).unwrap();
    for (stated, expected) in [
        ("/home/me/secret/base", "\"base\""),
        ("../secret/base", "\"base\""),
        ("secret/me/base", "\"base\""),
        ("Qwen/Qwen2.5-0.5B", "\"Qwen/Qwen2.5-0.5B\""),
    ] {
        let mut folder = peft_folder::Folder::golden("tiny-llama/adapters/lora");
        folder.set("base_model_name_or_path", json!(stated));
        let facts = folder.import(&model).unwrap().facts;
        assert!(facts.contains(expected) && !facts.contains("secret"), "{facts}");
    }
}

#[test]
fn modules_that_bitsandbytes_skipped_stay_as_they_are_unless_told_otherwise() {
    let mut folder = Folder::golden("tiny-llama-bnb");
    let plain = Folder::golden("tiny-llama");
    let skipped = ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj"];
    for (i, module) in skipped.iter().enumerate() {
        let weight = format!("{module}.weight");
        assert!(folder.tensors.contains_key(&format!("{weight}.absmax")));
        folder.tensors.retain(|name, _| !name.starts_with(&weight));
        let mut stored = plain.tensors[&weight].clone();
        if i == 1 {
            let halves = stored.floats();
            let halves = halves.iter().map(|&v| half::f16::from_f32(v).to_le_bytes());
            stored.bytes = halves.flatten().collect();
            stored.dtype = safetensors::Dtype::F16;
        }
        folder.tensors.insert(weight, stored);
    }
    folder.config["quantization_config"]["llm_int8_skip_modules"] =
        json!(["lm_head", skipped[0], "q_proj"]);
    let formats = |options: &BaseOptions| {
        let archive = folder.import(options).unwrap();
        let model = Llama::open(&archive).unwrap();
        [Site::Up(0), Site::Q(1), Site::Head, Site::Down(0), Site::Embedding]
            .map(|site| model.weight(site).format())
    };
    let head = folder.tensors["lm_head.weight"].dtype;
    let head = if head == safetensors::Dtype::F32 { Format::F32 } else { Format::F16 };
    let free = BaseOptions { allow_missing_tokenizer: true, ..BaseOptions::default() };
    assert_eq!(formats(&free), [Format::F32, Format::F16, head, Format::Nf4, Format::Int8]);
    let told = BaseOptions { keep_skipped_weights: false, ..free.clone() };
    assert_eq!(formats(&told), [Format::Nf4, Format::Nf4, head, Format::Nf4, Format::Int8]);
    let told = BaseOptions { keep_skipped_embedding: false, ..free.clone() };
    let int8 = Format::Int8;
    assert_eq!(formats(&told), [Format::F32, Format::F16, int8, Format::Nf4, int8]);
    let told = BaseOptions { weights: Format::F32, embedding: Format::F32, ..free.clone() };
    assert_eq!(formats(&told), [Format::F32; 5]);
    // What stays is what the checkpoint has, to the bit.
    let archive = folder.import(&free).unwrap();
    let model = Llama::open(&archive).unwrap();
    let weight = model.weight(Site::Up(0));
    let mut row = vec![0.0; weight.cols()];
    weight.read(3, 0, &mut row);
    let stored = plain.tensors["model.layers.0.mlp.up_proj.weight"].floats();
    assert_eq!(row, stored[3 * weight.cols()..][..weight.cols()]);
    // A model that was not quantized has nothing that was skipped.
    let archive = base_to_buffer(
        &HuggingFace::open(model_folder::golden("tiny-llama")).unwrap(),
        &free,
        &mut |_| {},
    )
    .unwrap();
    assert_eq!(Llama::open(&archive).unwrap().head().format(), Format::Int8);
}
