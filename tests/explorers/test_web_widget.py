"""How an explorer in a notebook shares its settings with the kernel, in a browser without one."""

import pytest

from tests.explorers.javascript import modules

# A model of one setting as anywidget gives it, and a mount that shows nothing. `saved` is what the
# kernel was told; `answer` is what a message of the kernel does to the model. As in ipywidgets, what
# a call changes waits to be saved, and one that changes nothing leaves what waits as it is.
DRAG = """(async () => {
  class LiveModel extends class {} {
    comm_live = true;
  }
  const state = { specs: [{ name: "angle" }], angle: 0, first_settings: { angle: 0 }, data: {} };
  const itself = new LiveModel();
  const listeners = [];
  const saved = [];
  let waiting = {};
  const tell = (event, detail) => {
    for (const [name, listener] of listeners) if (name === event) listener(detail);
  };
  const model = {
    get: (name) => state[name],
    set: (first, second) => {
      const changed = typeof first === "string" ? { [first]: second } : first;
      const isNews = ([name, value]) => JSON.stringify(state[name]) !== JSON.stringify(value);
      const news = Object.entries(changed).filter(isNews);
      Object.assign(waiting, Object.fromEntries(news));
      Object.assign(state, changed);
      for (const [name] of news) tell(`change:${name}`, itself);
      if (news.length) tell("change");
    },
    save_changes: () => {
      if ("angle" in waiting) saved.push(waiting.angle);
      waiting = {};
    },
    send: () => {},
    on: (...one) => listeners.push(one),
    off: () => {},
  };
  const answer = (angle) => {
    state.angle = angle;
    tell("change");
  };
  const shown = [];
  let host;
  const mount = (el, given) => {
    host = given;
    return { update: ({ angle }) => shown.push(angle), destroy: () => {} };
  };
  const wait = (time) => new Promise((resolve) => setTimeout(resolve, time));
  const draw = widget(mount);
  const open = () => draw({ model, el: document.body.appendChild(document.createElement("div")) });
  open();
  %s
  const { data } = state;
  return { saved, shown, angle: host.values.angle, bytes: data.rows && data.rows.bytes.byteLength };
})()"""


@pytest.fixture(scope="module")
def drag():
    with modules("widget") as call:
        yield lambda steps: call(DRAG % steps)


def test_a_late_answer_of_the_kernel_does_not_undo_what_a_key_has_set_since(drag):
    found = drag("""
      host.set("angle", 1);
      await wait(50); // told
      host.set("angle", 2);
      answer(1);
      host.set("angle", host.values.angle + 1);
      await wait(300);
    """)
    assert found["saved"] == [1, 3]
    assert found["shown"] == sorted(found["shown"]), "the slider went back"
    assert found["angle"] == 3


@pytest.mark.parametrize(
    "way_back",
    ["reset()", 'set("angle", 0)', "setAll({ angle: 0 })"],
    ids=["reset", "hand", "preset"],
)
def test_the_way_back_holds_though_a_late_answer_has_the_same_value(drag, way_back):
    found = drag(f"""
      host.set("angle", 1);
      await wait(300);
      host.set("angle", 0);
      await wait(50); // told
      host.set("angle", 2); // which waits
      answer(0);
      host.{way_back};
      await wait(300);
    """)
    assert found["saved"] == [1, 0]
    assert found["shown"][-1] == found["angle"] == 0


def test_what_python_sets_is_shown_once_the_kernel_knows_what_the_hand_did(drag):
    found = drag("""
      host.set("angle", 1);
      await wait(300);
      answer(7);
    """)
    assert found["saved"] == [1]
    assert found["shown"][-1] == found["angle"] == 7


def test_of_a_part_of_an_array_the_kernel_gets_that_part_alone(drag):
    found = drag("""
      const whole = Float64Array.of(1, 2, 3, 4);
      host.keep({ rows: whole.subarray(1, 3) });
      await wait(300);
    """)
    assert found["bytes"] == 2 * 8


def test_a_second_view_is_drawn_and_follows_python_as_the_first_does(drag):
    found = drag("""
      open();
      open();
      shown.length = 0;
      answer(7);
    """)
    assert found["shown"] == [7, 7, 7]
