import pytest,time
from tests.system.test_nve_one_box import *
from tests.system.tenants import veth_tenant, stream, expect_tenants, Tenant
from tests.system.test_tenants_agnostic import many, goes_to
NETS = NETWORK.replace('group =','snoop = true\ngroup =')
def test_one():
    with Lab("ob") as lab:
        one_box = lab.box("one", forwards=True)
        for address in (DEVICE, ONE): one_box.address("lo", f"{address}/32")
        far=lab.box("n2"); plug(one_box,"p2",far,("10.1.2.1/24","10.1.2.2/24"))
        f3=lab.box("n3"); plug(one_box,"p3",f3,("10.1.3.1/24","10.1.3.2/24"))
        vms={f"vm{n}": veth_tenant(lab, one_box, f"v{n}", n) for n in (1,2)}
        cfg=INSIDE + OUTSIDE + vm_port("v1")+vm_port("v2") + NETS + QUICK + ROLES
        one=Fastpath(lab, one_box, cfg, waits=False)
        for n,h in ((2,far),(3,f3)):
            h.vxlan("vx",100,local=f"10.1.{n}.2",under="up",group=GROUP,vxlan_learning=1,vxlan_ttl=4)
            vms[f"n{n}"]=Tenant(lab,h,"vx",n+5)
        one.answers(); joined(one,GROUP,"down","p2","p3")
        with vms["vm1"].join("239.77.0.1"):
            wait_for(lambda: one.show("members",group="239.77.0.1",port="down"), "down")
            try: goes_to(one,"239.77.0.1","down")
            except AssertionError as e: print(e); 
            print(one.show("groups")); print(one.show("members"))
            time.sleep(2)
            stream(vms,"n2","239.77.0.1",many(),"vm1")
            stream(vms,"vm2","239.77.0.1",many(),"vm1")
        with vms["n3"].join("239.77.0.2"):
            wait_for(lambda: one.show("members",group="239.77.0.2",port="p3"), "p3")
            time.sleep(2)
            stream(vms,"vm2","239.77.0.2",many(),"n3","vm1")
        print(one.drops(), one.log[-2000:])
