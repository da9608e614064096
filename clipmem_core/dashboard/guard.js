// Takes a press only while the pair is on screen that its button is of.
(() => {
    if (window.clipmemGuard) return
    const guard = window.clipmemGuard = {pressed: '', at: 0, answered: true, moved: 0, late: 0}
    const BUTTONS = '[class*="st-key-deciding-"] button, [class*="st-key-recaption-"] button'
    const REST = 300, SAID = 5000, LOST = 10000  // milliseconds
    const running = () => document.querySelector('[data-testid=stApp]').dataset.testScriptState !== 'notRunning'
    new MutationObserver(() => {
        guard.moved = performance.now()
        guard.answered ||= running()
    }).observe(document.body, {subtree: true, attributeFilter: ['data-test-script-state']})
    const view = name => [...document.querySelectorAll(`[class*="st-key-${name}-"]`)]
        .map(e => e.className.match(`st-key-${name}-([0-9-]+)`)[1]).join()
    const rests = () => !running() && performance.now() - guard.moved > REST
        && (guard.answered || performance.now() - guard.at > LOST)
    const say = () => {
        const line = document.getElementById('clipmem-late') ?? document.body.appendChild(document.createElement('div'))
        Object.assign(line, {id: 'clipmem-late', role: 'status', textContent: 'LATE'})
        line.style = 'position:fixed;bottom:1rem;left:50%;transform:translateX(-50%);z-index:1000000;'
            + 'padding:.6rem 1rem;border-radius:.5rem;background:#8a4b00;color:#fff'
        clearTimeout(guard.timer)
        guard.timer = setTimeout(() => line.remove(), SAID)
    }
    const take = (event, decides) => {
        const asked = view('deciding')
        if (!asked) return
        const drawing = asked === guard.pressed || (decides && asked !== view('shown-whole'))
        if (event.repeat || (drawing && !rests())) {
            event.preventDefault()
            event.stopImmediatePropagation()
            if (event.repeat) return
            guard.late += 1
            say()
        } else if (decides) {
            Object.assign(guard, {pressed: asked, at: performance.now(), answered: false})
        }
    }
    addEventListener('keydown', event => {
        const key = event.key.toLowerCase()
        const pressed = ['enter', ' '].includes(key) && event.target.closest?.(BUTTONS)
        const decides = ['k', 'x', 'u', 'e'].includes(key) || pressed
        const typing = event.composedPath()[0].closest?.(
            'textarea, [contenteditable], [role=dialog], input:not([type=checkbox])')
        if (typing || event.ctrlKey || event.metaKey || event.altKey) return
        if (decides || ['n', 'arrowleft', 'arrowright'].includes(key)) take(event, decides)
    }, true)
    addEventListener('click', event => {
        if (event.detail > 0 && event.target.closest?.(BUTTONS)) take(event, true)  // 0: by a key
    }, true)
})()
