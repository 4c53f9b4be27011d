/** Takes steps, one a frame, while it plays and only where it can be seen. */
export class Player {
  /**
   * @param el what must be on the screen.
   * @param step called once a frame.
   */
  constructor(el, step) {
    this.step = step;
    this.isPlaying = false;
    this.isOnScreen = true;
    this.frame = 0;
    this.observer = new IntersectionObserver((entries) => {
      this.isOnScreen = entries.some((entry) => entry.isIntersecting);
      this.goOn();
    });
    this.observer.observe(el);
  }

  play() {
    this.isPlaying = true;
    this.goOn();
  }

  pause() {
    this.isPlaying = false;
  }

  /** A tab that is hidden has no frames, and so stands still by itself. */
  goOn() {
    if (this.frame || !this.isPlaying || !this.isOnScreen) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (!this.isPlaying || !this.isOnScreen) return;
      this.step();
      this.goOn();
    });
  }

  destroy() {
    this.pause();
    this.observer.disconnect();
  }
}

/** Whether the reader has asked for little motion: then nothing moves by itself. */
export function prefersStillness() {
  return matchMedia("(prefers-reduced-motion: reduce)").matches;
}
