//! What goes wrong on a device is one clear error, in the call that it happens in; the session
//! refuses to go on, and the CPU path of the same process does. The faults are planted in the
//! software driver, each in a process of its own.

use lowrank::Error;
use lowrank::cuda::{CudaError, Device, EncoderModel, Model};
use lowrank::model::bert::Bert;
use lowrank::model::llama::Llama;
use lowrank::quant::Format;
use lowrank::runtime::{
    CudaEncoder, CudaSession, EncoderLimits, Limits, Memory, Sampler, Serial, Session, need,
};

use crate::common::{BERT, bert};
use crate::cuda_driver::is_planted;
use crate::{PROMPTS, asset};

/// What the CPU says of the first prompt.
fn cpu_goes_on() {
    let base = asset("tiny.lrk");
    let model = Llama::open(&base).unwrap();
    let limits = Limits::new(64);
    let mut memory = Memory::new(need(model.config(), &limits));
    let mut session = Session::new(model, &limits, memory.as_mut(), &Serial).unwrap();
    session.prefill(0, PROMPTS[0]).unwrap();
    assert_eq!(session.sample(0, &mut Sampler::greedy()), Ok(u32::from(b' ')));
}

fn said(error: &CudaError, code: u32, parts: &[&str]) {
    let text = error.to_string();
    assert_eq!(error.code(), code, "{text}");
    assert!(parts.iter().all(|part| text.contains(part)) && !text.contains('\n'), "{text}");
}

#[test]
fn too_little_memory() {
    if !is_planted("faults::too_little_memory", ("SOFTPTX_MEMORY", "200000")) {
        return;
    }
    let base = asset("tiny.lrk");
    let llama = Llama::open(&base).unwrap();
    let error = Model::upload(&Device::open(0).unwrap(), llama).unwrap_err();
    said(&error, 2, &["bytes of memory", "out of memory", "use a smaller context"]);
    cpu_goes_on();
}

#[test]
fn a_driver_that_does_not_know_the_ptx() {
    if !is_planted("faults::a_driver_that_does_not_know_the_ptx", ("SOFTPTX_PTX", "65")) {
        return;
    }
    let error = Device::open(0).unwrap_err();
    said(&error, 222, &["ptx/activation.ptx", "the driver is too old", "CUDA 11.0"]);
    cpu_goes_on();
}

/// Steps until one fails: everything behind it is the same error, whatever is asked.
fn session_ends(code: u32, parts: &[&str]) {
    let base = asset("tiny.lrk");
    let model = Model::upload(&Device::open(0).unwrap(), Llama::open(&base).unwrap()).unwrap();
    let limits = Limits { batch: 2, ..Limits::new(64) };
    let mut memory = Memory::new(CudaSession::need(model.llama().config(), &limits));
    let mut session = CudaSession::new(&model, &limits, memory.as_mut()).unwrap();
    session.prefill(0, PROMPTS[0]).unwrap();
    assert!(session.device_error().is_none());
    let failed = (0..32).find_map(|_| session.step(&[(0, 65)]).err());
    assert_eq!(failed, Some(Error::Device));
    said(session.device_error().unwrap(), code, parts);
    let first = session.device_error().cloned();
    for refused in [
        session.step(&[(0, 65)]),
        session.prefill(1, PROMPTS[0]),
        session.advance(&[(1, PROMPTS[1])]),
        session.score(1, PROMPTS[1], |_, _| ()),
        session.step_greedy(&[(0, 65)], &mut [0]),
        session.sample(0, &mut Sampler::greedy()).map(drop),
        session.logits(0).map(drop),
        session.fork(0, 1, 3),
        session.reset(0),
        session.cancel(0),
    ] {
        assert_eq!(refused, Err(Error::Device));
    }
    assert_eq!(session.device_error().cloned(), first);
    cpu_goes_on();
}

#[test]
fn a_launch_that_is_refused_in_mid_run() {
    if !is_planted("faults::a_launch_that_is_refused_in_mid_run", ("SOFTPTX_REFUSE_LAUNCH", "70")) {
        return;
    }
    session_ends(701, &["CUDA: a kernel: too many resources requested for launch"]);
}

#[test]
fn a_device_that_is_lost_in_mid_run() {
    if !is_planted("faults::a_device_that_is_lost_in_mid_run", ("SOFTPTX_LOSE_AFTER", "70")) {
        return;
    }
    session_ends(719, &["CUDA: a kernel: the device was lost"]);
}

#[test]
fn an_encoder_whose_device_is_lost() {
    if !is_planted("faults::an_encoder_whose_device_is_lost", ("SOFTPTX_LOSE_AFTER", "30")) {
        return;
    }
    let archive = bert(&BERT, Format::F16, Format::F16, true, 3);
    let bert = Bert::open(&archive).unwrap();
    let model = EncoderModel::upload(&Device::open(0).unwrap(), bert).unwrap();
    let limits = EncoderLimits { batch: 2, tokens: 12, ..EncoderLimits::new(12) };
    let mut memory = Memory::new(CudaEncoder::need(&limits));
    let mut encoder = CudaEncoder::new(&model, &limits, memory.as_mut()).unwrap();
    encoder.encode(&[&[1, 2, 3]]).unwrap();
    assert_eq!(encoder.encode(&[&[1, 2, 3]]), Err(Error::Device));
    said(encoder.device_error().unwrap(), 719, &["the device was lost"]);
    assert_eq!(encoder.embedding(0), Err(Error::NotEncoded { sequence: 0 }));
    assert_eq!(encoder.encode(&[&[1]]), Err(Error::Device));
    cpu_goes_on();
}
