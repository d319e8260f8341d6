"""The benchmarks' stopwatch, count of operations on programs with known ones, tables and order."""

import json
import pathlib
import subprocess
import time

import jax
import jax.numpy as jnp
import kernels
import pytest
import run
import stopwatch
import subjects
import table
import work

PRODUCT = 2 * 8**3  # operations of a product of 8 x 8 matrices
X = jnp.eye(8)


@pytest.mark.parametrize(
    ("pause", "repeats", "seconds", "counted", "calls"),
    [
        (0.0, 4, 60, 4, 5),  # The first call warms up and does not count.
        (0.02, 4, 0.03, 1, 2),  # There is one repetition even without time for it.
        (0.02, 4, 0.01, 1, 1),  # A first call that takes too long is the only one.
        (0.0, 0, 60, 0, 0),
    ],
)
def test_calls_are_repeated_as_time_allows(pause, repeats, seconds, counted, calls):
    called = []

    def call():
        called.append(1)
        time.sleep(pause)

    times = stopwatch.repeat(call, repeats=repeats, seconds=seconds)
    assert (times.repeats, len(called)) == (counted, calls)
    if calls == 1:
        assert times.low == times.median == times.high >= pause


def test_calls_take_turns():
    order = []
    calls = [lambda: order.append("a"), lambda: order.append("b")]
    assert [times.repeats for times in stopwatch.in_turns(calls, repeats=2)] == [2, 2]
    assert "".join(order) == "ababab"


def test_a_product_reads_its_operands_and_writes_its_result():
    # Twice: the bytes of the product, and those of the program.
    assert work.of(lambda x: x @ x, X) == (PRODUCT, 3 * X.nbytes + 2 * X.nbytes)


def test_loops_count_as_often_as_they_run():
    def scanned(x):
        def layer(x, _):
            return jax.lax.scan(lambda y, _: (y @ x, None), x, length=3)[0], None

        return jax.lax.scan(layer, x, length=5)[0]

    assert work.of(scanned, X).operations == 15 * PRODUCT


def until(n, x):
    return jax.lax.while_loop(lambda s: s[0] < n, lambda s: (s[0] + 1, s[1] @ x), (0, x))[1]


def branched(n, x):
    return jax.lax.cond(n > 3, lambda x: x, lambda x: until(n, x) @ x, x)


@pytest.mark.parametrize(
    ("function", "n", "products"), [(until, 7, 7), (branched, 7, 0), (branched, 2, 3)]
)
def test_loops_and_branches_that_depend_on_data_are_run(function, n, products):
    assert work.of(function, jnp.asarray(n), X).operations == products * PRODUCT


def test_gradients_count_what_is_computed_again():
    def loss(x):
        # Forward, again for the gradient, and two products of the gradient itself.
        return jnp.sum(jax.checkpoint(lambda y: jnp.sin(y @ y))(x))

    assert work.of(jax.grad(loss), X).operations == 4 * PRODUCT


def test_a_convolution_counts_its_windows():
    signal, kernel = jnp.ones((2, 9, 3)), jnp.ones((4, 3, 5))

    def convolve(signal, kernel):
        numbers = ("NWC", "WIO", "NWC")
        return jax.lax.conv_general_dilated(
            signal, kernel, (1,), "VALID", dimension_numbers=numbers
        )

    # Six windows of four bins with three channels, for five channels of two showers.
    assert work.of(convolve, signal, kernel).operations == 2 * (6 * 4 * 3) * 5 * 2


PROGRAM = """
%body (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %fusion.1 = f32[8]{0} fusion(%x), kind=kLoop, calls=%inner
  ROOT %fusion.2 = (f32[8]{0}, /*index=1*/s64[2]{0}) fusion(%fusion.1), kind=kLoop, calls=%inner
}

%short (x: f32[8]) -> f32[8] {
  ROOT %copy.1 = f32[8]{0} copy(%x)
}

%long (x: f32[8]) -> f32[8] {
  %copy.2 = f32[8]{0} copy(%x)
  ROOT %call.1 = f32[8]{0} call(%copy.2), to_apply=%short
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0} parameter(0)
  %w = (f32[8]{0}, /*index=1*/s32[]) while(%t), condition=%test, body=%body, \
backend_config={"known_trip_count":{"n":"5"}}
  %unknown = f32[8]{0} while(%t), condition=%test, body=%body
  %gemm = f32[8]{0} custom-call(%a), custom_call_target="__cublas$gemm"
  ROOT %c = f32[8]{0} conditional(%i, %a, %a), branch_computations={%short, %long}
}
"""


def test_kernels_are_counted_in_loops_branches_and_calls():
    assert kernels.Program(PROGRAM).columns() == {
        "kernels": 5 * 2 + 2 + 1 + 2,
        "loops": [(5, 2), (None, 2)],
        "calls": {"__cublas$gemm": 1},
        "wide": 0,
        "host": 0,
    }


# Of a TPU: layouts have tiles, scalars are free, and a loop does not say how often it turns.
TPU_PROGRAM = """
%body (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.1 = f32[8]{0:T(8)S(1)} fusion(%x), kind=kLoop, calls=%inner
  %add.1 = s32[]{:T(128)} add(%i, %constant.1)
  ROOT %t = (s32[]{:T(128)}, f32[8]{0:T(8)S(1)}) tuple(%add.1, %fusion.1)
}

%jump (x: (s32[], f32[8])) -> (s32[], f32[8]) {
  %fusion.2 = f32[8]{0:T(8)S(1)} fusion(%x), kind=kLoop, calls=%inner
  %next = s32[]{:T(128)} minimum(%i, %j)
  ROOT %t.1 = (s32[]{:T(128)}, f32[8]{0:T(8)S(1)}) tuple(%next, %fusion.2)
}

%test (x: (s32[], f32[8])) -> pred[] {
  %other = s32[]{:T(128)} constant(9)
  %bound = s32[]{:T(128)} constant(5)
  %i = s32[]{:T(128)} get-tuple-element(%x), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %bound), direction=LT
}

%until (x: (s32[], f32[8])) -> pred[] {
  %i.1 = s32[]{:T(128)} get-tuple-element(%x), index=0
  %bound.1 = s32[]{:T(128)} get-tuple-element(%x), index=2
  ROOT %less.1 = pred[]{:T(512)} compare(%i.1, %bound.1), direction=LT
}

ENTRY %main (a: f32[8]) -> f32[8] {
  %a = f32[8]{0:T(8)} parameter(0)
  %start = (f32[8]{0:T(8)S(1)}, f32[8]{0:T(8)}, u32[]{:S(2)}) copy-start(%a)
  %done = f32[8]{0:T(8)S(1)} copy-done(%start)
  %sum = f32[]{:T(128)} reduce(%done, %zero), to_apply=%add
  %w = (s32[]{:T(128)}, f32[8]{0:T(8)S(1)}) while(%done), condition=%test, body=%body
  %v = (s32[]{:T(128)}, f32[8]{0:T(8)S(1)}) while(%w), condition=%until, body=%body
  %u = (s32[]{:T(128)}, f32[8]{0:T(8)S(1)}) while(%w), condition=%test, body=%jump
  ROOT %sent = (f32[8]{0:T(8)}, u32[], token[]) send(%v), is_host_transfer=true
}
"""


def test_operations_of_a_tpu_are_counted_on_arrays_and_its_64_bit_arrays_in_the_source():
    source = "  %x = f64[8]{0} convert(%a)\n  %i = s64[] constant(1)"
    assert kernels.Program(TPU_PROGRAM, source).columns() == {
        "kernels": 1 + 1 + 5 * 1 + 1 + 1 + 1,
        "loops": [(5, 1), (None, 1), (None, 1)],
        "calls": {},
        "wide": 1,
        "host": 1,
    }


def test_a_program_that_doubles_or_calls_the_host_is_a_regression():
    row = {"subject": "m", "batch": 1, "part": "whole", "compiled_for": "H100"}
    row |= {"kernels": 100, "temporary_mib": 8.0, "host": 0}
    earlier = [row | {"kernels": 10}, row, row | {"batch": 2, "kernels": 1}]
    assert kernels.regressions(row | {"kernels": 200, "temporary_mib": 16.0}, earlier) == []
    assert kernels.regressions(row | {"kernels": 201, "temporary_mib": 17.0}, earlier) == [
        "m, 1, whole, H100: kernels rose from 100 to 201.",
        "m, 1, whole, H100: temporary_mib rose from 8 to 17.",
    ]
    (sentence,) = kernels.regressions(row | {"part": "new", "host": 1}, earlier)
    assert "exchanges data with the host" in sentence


def test_training_steps_are_compiled_for_the_shapes_of_their_batches():
    root = pathlib.Path(__file__).parents[1]
    subject = subjects.find(str(root / "examples/calovq-ds1-photons"))
    options = kernels.Benchmark(batch=(), training=True)
    programs = list(kernels.programs(subject, options, jax.devices()[0]))
    names = [f"training of {stage.name}" for stage in subject.model.stages]
    assert [name for _, name, _, _ in programs] == names
    for size, _, step, (state, batch) in programs:
        assert {len(array) for array in jax.tree.leaves(batch)} == {size}
        after, _ = step.eval_shape(state, batch)
        assert jax.tree.structure(after) == jax.tree.structure(state)


def test_a_table_has_every_evaluation_under_its_name(tmp_path, capsys):
    for name, fpd in (("a=1", 0.001), ("b", 0.002)):
        (tmp_path / name).mkdir()
        content = {"name": "model", "scores": {"fpd": fpd, "kpd": None}}
        (tmp_path / name / "metrics.json").write_text(json.dumps(content))
    table.main((f"x={tmp_path}/a=1", f"x={tmp_path}/b"))
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == ["| score | x | x |", "| FPD * 1e3 | 1 | 2 |"]


def test_all_benchmarks_of_a_device_run_once_in_the_order_of_their_worth(tmp_path, monkeypatch):
    ran = []

    def fake(command, **options):
        if command[1] == "-c":
            return subprocess.CompletedProcess(command, 0, "gpu\n")
        ran.append(command)
        if len(ran) == 3:  # Two are finished, and one runs until the end of the time.
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return subprocess.CompletedProcess(command, 1 if len(ran) == 4 else 0)

    monkeypatch.setattr(subprocess, "run", fake)
    measurements = run.Measurements(tmp_path, smoke=True)
    run.main(measurements)
    scripts = [pathlib.Path(command[1]).stem for command in ran]
    assert scripts == [step.script for step in measurements.steps()]
    assert scripts[:3] == ["agreement", "agreement", "generation"]
    assert ran[0][-2:] == ["--out", str(tmp_path / "agreement_gpu.jsonl")]
    unfinished = [command[1:4] for command in ran[2:4]]
    ran.clear()
    run.main(measurements)
    assert [command[1:4] for command in ran] == unfinished
