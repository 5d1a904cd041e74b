// Pictures of the class "zoomable": the wheel zooms about the pointer, dragging moves, a double click resets.
(() => {
  const MAX_SCALE = 12;
  const states = new WeakMap();
  const picture = (event) => event.target.closest?.(".zoomable img");
  const state = (image) => states.get(image) ?? { scale: 1, x: 0, y: 0 };

  function show(image, { scale, x, y }) {
    if (scale <= 1) [scale, x, y] = [1, 0, 0];
    states.set(image, { scale, x, y });
    image.style.transformOrigin = "0 0";
    image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
    image.style.cursor = scale > 1 ? "grab" : "zoom-in";
  }

  document.addEventListener("wheel", (event) => {
    const image = picture(event);
    if (!image) return;
    event.preventDefault();
    const { scale, x, y } = state(image);
    const next = Math.min(MAX_SCALE, Math.max(1, scale * Math.exp(-event.deltaY / 400)));
    const box = image.getBoundingClientRect();
    const held = { x: (event.clientX - box.left) / scale, y: (event.clientY - box.top) / scale };
    show(image, { scale: next, x: x + held.x * (scale - next), y: y + held.y * (scale - next) });
  }, { passive: false });

  let dragged = null;
  document.addEventListener("pointerdown", (event) => {
    const image = picture(event);
    if (image && state(image).scale > 1) {
      event.preventDefault();
      dragged = { image, left: event.clientX, top: event.clientY, start: state(image) };
    }
  });
  document.addEventListener("pointermove", (event) => {
    if (!dragged) return;
    const { image, left, top, start } = dragged;
    show(image, { scale: start.scale, x: start.x + event.clientX - left, y: start.y + event.clientY - top });
  });
  document.addEventListener("pointerup", () => { dragged = null; });
  document.addEventListener("dblclick", (event) => {
    const image = picture(event);
    if (image) show(image, { scale: 1, x: 0, y: 0 });
  });
})();
