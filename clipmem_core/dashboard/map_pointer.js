// Picture and caption of the pair below the pointer, beside the chart of a map. What this begins with is in review_outbox.js.
//
// The chart is drawn by Streamlit; each of its points has the row of its pair with it.

const REST = 60, LOOK = 400 // milliseconds: until a point is asked for, and between looks for the chart
const REMEMBERED = 400 // pairs

class Pointer {
    constructor(root, data) {
        Object.assign(this, {root, data, known: new Map(), row: null})
        this.box = root.querySelector('.hover')
        this.looker = setInterval(() => this.look(), LOOK)
        this.look()
    }

    stop() {
        clearInterval(this.looker)
        clearTimeout(this.rester)
        this.forget()
    }

    forget() {
        for (const {url} of this.known.values()) URL.revokeObjectURL(url)
        this.known.clear()
    }

    // Listen to the chart, which may be another one by now.
    look() {
        const plot = document.querySelector(`.${CSS.escape(this.data.chart)} .js-plotly-plot`)
        if (!plot?.on || plot === this.plot) return
        this.plot = plot
        plot.on('plotly_hover', ({points, event}) => this.enter(points.at(-1)?.customdata, event))
        plot.on('plotly_click', ({points}) => this.click(points.at(-1)?.customdata))
        plot.on('plotly_unhover', () => this.leave())
    }

    enter(given, event) {
        const row = Array.isArray(given) ? given[0] : given
        if (!Number.isInteger(row)) return
        this.row = row
        this.at = [event.clientX, event.clientY]
        clearTimeout(this.rester)
        this.rester = setTimeout(() => this.show(row), this.known.has(row) ? 0 : REST)
    }

    click(given) {
        const row = Array.isArray(given) ? given[0] : given
        if (Number.isInteger(row)) this.tell(row)
    }

    leave() {
        this.row = null
        clearTimeout(this.rester)
        this.box.hidePopover()
    }

    async show(row) {
        const {prefix, audit} = this.data
        try {
            if (!this.known.has(row)) {
                const [cards, picture] = await Promise.all([
                    ask(`${prefix}/pairs`, {parameters: {audit, rows: row}}).then(answer => answer.json()),
                    ask(`${prefix}/picture`, {parameters: {audit, row, small: 1}}).then(answer => answer.blob()),
                ])
                if (this.known.size >= REMEMBERED) this.forget()
                this.known.set(row, {caption: cards[0].captions[0] ?? '', url: URL.createObjectURL(picture)})
            }
        } catch {
            return // asked again when the pointer comes back
        }
        if (this.row !== row) return
        const {caption, url} = this.known.get(row), [x, y] = this.at
        const image = Object.assign(new Image(), {src: url, alt: `Picture: ${caption.slice(0, 120)}`})
        this.box.replaceChildren(image, Object.assign(document.createElement('p'), {textContent: caption.slice(0, 200), dir: 'auto'}))
        this.box.showPopover()
        const {width, height} = this.box.getBoundingClientRect()
        this.box.style.left = `${x + 24 + width > innerWidth ? Math.max(0, x - 24 - width) : x + 24}px`
        this.box.style.top = `${Math.max(0, Math.min(y + 12, innerHeight - height - 8))}px`
    }
}

const pointers = new WeakMap()

export default function ({data, parentElement, setTriggerValue}) {
    if (JSON.stringify(pointers.get(parentElement)?.data) !== JSON.stringify(data)) {
        pointers.get(parentElement)?.stop()
        pointers.set(parentElement, new Pointer(parentElement, data))
    }
    pointers.get(parentElement).tell = row => setTriggerValue('click', row)
    return () => { pointers.get(parentElement)?.stop(); pointers.delete(parentElement) }
}
